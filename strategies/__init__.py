"""Flower strategies that work on secure sums: they see the total of a cohort and never one site's update."""

from strategies.joint_dp_sgd import JointDpSgd
from strategies.orders import OrderBook, RunPlan
from strategies.secure_fedavg import RoundOutcome, SecureFedAvg
from strategies.secure_sum import SecureSums, SumResult

__all__ = ["JointDpSgd", "OrderBook", "RoundOutcome", "RunPlan", "SecureFedAvg", "SecureSums", "SumResult"]
