"""What customers say: the sentences :mod:`simulations.customer_messages` draws from. Data, no rules.

``{a|b|c}`` is a choice and may nest; ``<slot>`` is filled from :data:`SLOTS`. Every intent has sentences for the sites
and *held-out* sentences for the public test set, written apart from each other, so that a model must learn what is
meant and not how it was put. ``asides`` mention an intent's words in a message about something else.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """The sentences of one intent."""

    sites: tuple[str, ...]
    held_out: tuple[str, ...]
    #: said in passing in messages of *other* intents: the same words, another meaning
    asides: tuple[str, ...]
    held_out_asides: tuple[str, ...]


INTENTS: dict[str, Wording] = {
    "card-lost": Wording(
        sites=(
            "I {lost|have lost|must have lost} my {|bank |debit |credit }card {<when>|somewhere in <city>|on the {bus|train|way home}}",
            "my {card|bank card|wallet with the card} {was|got} stolen {<when>|in <city>|at the {gym|station|market}}",
            "{I can't find|I cannot find} my card {anywhere|any more|since I was in <city>}",
            "please {block|freeze|lock} my card, {I left it|it was left|I think I left it} {in a taxi|in a shop|in <city>}",
            "someone {took|grabbed|snatched} my {purse|bag|wallet} {<when>|in <city>} and my card was in it",
            "my card {is gone|has gone missing|disappeared} {<when>|after I paid at <merchant>}",
            "{need to report|I want to report|how do I report} a {lost|stolen|missing} card",
            "{dropped|I dropped|I think I dropped} my card {at|near|outside} <merchant>, {can you stop it|can you cancel it|what now}",
            "the machine {in <city>|at the station} {swallowed|kept} my card and I {have no way to get it back|could not get it back}",
            "{I misplaced|I have misplaced} my {debit|credit|bank} card, {can it be blocked|should I block it|please stop all payments with it}",
            "{disable|deactivate} my card {now|at once}, {it is lost|it is not in my bag any more|a stranger has it}",
            "{I have no idea where|I cannot say where} my card {is|went}, {somebody may find it and use it|I looked everywhere}",
            "{whom do I call|what do I do first} {when|if} {my card is stolen|I have lost my card}",
            "my {purse|wallet} {fell out of|slid out of} my {pocket|bag} {with all cards in it|and the card is gone}",
        ),
        held_out=(
            "my wallet {is nowhere to be found|fell out of my pocket} {<when>|while I was in <city>} and the card was inside",
            "{pickpockets|a thief|somebody} got my card {<when>|in <city>}, {deactivate it at once|make sure nobody can use it}",
            "{no idea where my card is|I have searched everywhere for my card} {|and I am worried somebody may use it}",
            "{is there a number to call|who do I contact} when a card {has been stolen|is missing}",
            "left my card {behind|lying} {at <merchant>|in a restaurant} {<when>|} and now it is not there any more",
        ),
        asides=(
            "{my card is safe with me|I still have my card|nothing was stolen}, {that is not the problem|do not block it}",
            "{no need to|please do not} block the card",
            "I {lost|misplaced} a card {last year|once}, {that was sorted out|you were very helpful then}",
        ),
        held_out_asides=("the card is in my hand, so do not stop it", "this is not about a missing card"),
    ),
    "card-arrival": Wording(
        sites=(
            "my new card {has not arrived|still isn't here|hasn't come} {|after <span>}",
            "{when will|when does} my {new |replacement |}card {arrive|come|get here}",
            "I {ordered|requested|applied for} a {new |replacement |}card {<when>|<span> ago} and {nothing came|I am still waiting}",
            "{has my card been|was my new card} {sent|posted|mailed|dispatched} {yet|already|to <city>}",
            "how long {does it take|do I wait|until I get} {for a new card to arrive|for the card to come in the post|my new card}",
            "{you promised me|I was promised} a new card {within <span>|by <when>}, {where is it|it is not in my letterbox}",
            "still {waiting|no sign} {for|of} the {card|bank card|debit card} you {sent|posted} {<when>|<span> ago}",
            "is there {any way|a way} to {track|follow} {the delivery of my card|the card you are sending me}",
            "{my PIN came|the PIN letter arrived} but {the card did not|not the new card}",
            "I opened my account {<when>|<span> ago} and {have not received|never got} {a|the|my} card",
            "the {postman|mail} {came|was here} {<when>|} but {there was no card|still no card in the envelope}",
            "{what is the status|any news} {of|on} my {new card|replacement card}, it {should have been here|was due} {by now|<when>}",
            "my old card {is about to expire|expires this month}, {when do you send the new one|has the new one left}",
            "{which day|how soon} {will my first card be here|can I expect my new card}",
        ),
        held_out=(
            "{any news about|what is the status of} the {debit|bank|replacement} card that is {supposed to be|said to be} {on its way|in the mail}",
            "it's been <span> and {the postman has brought no card|no card in my mailbox}",
            "{expecting|I am expecting} my first card, {how many days more|which day should it reach me|did it leave already}",
            "my old card {expires|runs out} soon and {the next one has not turned up|I have not been given the next one}",
            "could you {tell me|check} {whether|if} my replacement card is already {underway|shipped} to <city>",
        ),
        asides=(
            "my new card {arrived|came} {<when>|fine}, {thanks for that|all good there}",
            "the card {you sent|from last month} {works|is fine}",
            "I am not waiting for a card {|any more}",
        ),
        held_out_asides=("the replacement card reached me without trouble", "the new card is here already"),
    ),
    "unknown-charge": Wording(
        sites=(
            "there is a {charge|payment|transaction} of <amount> {on my card|on my account|from <merchant>} I {do not recognise|did not make|know nothing about}",
            "I {see|found|noticed} <amount> {taken|charged|debited} by <merchant> {<when>|}, {I never bought anything there|that was not me}",
            "{who is|what is} <merchant> and why {did they take|is there a debit of} <amount>",
            "somebody {used|is using} my card {number |details |}{online|at <merchant>|in <city>}, {I did not pay that|those payments are not mine}",
            "{I want to dispute|I need to dispute|please look into} a {payment|charge|debit} of <amount> {I did not authorise|that I never approved}",
            "{my statement shows|on my statement there is} a {strange|suspicious|weird} {payment|charge} {|of <amount> }{from <when>|to <merchant>}",
            "I was charged {twice|two times|double} {by <merchant>|<amount>} {for one purchase|for the same thing}",
            "{I have no idea|I don't know} what the <amount> {from <merchant>|from <when>} {is|was} for",
            "{there was|I got a notice of} a card payment in <city> but {I was at home|I have never been there}",
            "{is this fraud|I think this is fraud}, <amount> {left my account|went to <merchant>} {<when>|without me doing anything}",
            "{money|<amount>} {went out of|disappeared from} my account {<when>|} and {I did not do that|I gave no permission}",
            "{an unfamiliar|an unknown} {company|shop} {withdrew|billed me} {<amount>|money}, {I never signed up|check this please}",
            "I {did not buy|never ordered} {anything|the thing} {that is billed|I am billed for} {by <merchant>|at <amount>}",
            "{explain|can you explain} the {purchase|entry|booking} of <amount> on my {bill|list of transactions}{, I cannot place it|}",
        ),
        held_out=(
            "{an unfamiliar|a mysterious} {entry|amount|withdrawal} {showed up|appeared} {on my bill|in my transactions} {<when>|}, {never signed up for that|not mine}",
            "I {certainly |}did not {shop|spend anything} at <merchant>, {yet|but} <amount> {has been|was} {billed|withdrawn}",
            "money {vanished|went out} {<when>|} to {a company|people} I have never heard of",
            "why {does my account list|am I seeing} a purchase {in <city>|of <amount>} that {nobody in my family made|I cannot explain}",
            "{investigate|check} this {debit|booking} please, {it is not from me|I gave no permission for it}, <amount>",
        ),
        asides=(
            "the {charges|payments} on my statement are all {correct|mine}",
            "{I do recognise the payment|the charge itself is right}",
            "I know what the <amount> was for",
        ),
        held_out_asides=(
            "every transaction on the list was made by me",
            "I have nothing against the amount billed",
        ),
    ),
    "refund-request": Wording(
        sites=(
            "I {want|would like|need} {a refund|my money back} {for <product>|for order <order>|for the <product>}",
            "the <product> {arrived broken|does not work|is damaged|is the wrong size}, {please refund me|can I have my money back|I want to send it back}",
            "{how do I|how can I|where can I} {get a refund|ask for a refund|return <product> for a refund}",
            "I {changed my mind|do not need it any more}, {can I return|how do I return} the <product>{| I bought <when>}",
            "{please|can you} {refund|pay back|return} the <amount> {for <product>|I paid for the <product>}",
            "I was {sent|given} the wrong <product> and {want|expect} {a refund|my <amount> back}",
            "is it possible to {return|give back} <product> and {get|receive} {a refund|the money}",
            "{not satisfied|very unhappy} with the <product>, {I would like to return it|give me my money back please}",
            "I {cancelled|had to cancel} {the trip|my booking|order <order>}, {am I entitled to a refund|can you refund the <amount>}",
            "{requesting|I request} {a refund|reimbursement} {of <amount>|for order <order>}",
            "{take back|please take back} the <product> and {reimburse me|pay me back|give me back the <amount>}",
            "I {would like to be|want to be} {reimbursed|paid back} for {the <product>|order <order>}, {it broke|it is faulty|it came scratched}",
            "the <product> {is not as described|is of bad quality|fell apart}, {how do I hand it back for the money|I expect the price back}",
            "{may I|can I still} {send back|swap} the <product> {for cash|and get the price back}",
        ),
        held_out=(
            "the <product> {stopped working|fell apart} after <span>, {I expect to be reimbursed|take it back and reimburse me}",
            "{reimburse me|I would like to be paid back} for {the <product>|order <order>}, it {is not what was described|came with scratches}",
            "what {steps do I take|do I have to do} to {send back|hand back} <product> and {be repaid|have the purchase price returned}",
            "{this <product> is going back|I am sending the <product> back}, {start the repayment|I no longer want it, money back please}",
            "may I {exchange|swap} <product> for {my money|cash back}, {it does not suit me|it is of poor quality}",
        ),
        asides=(
            "I am {not asking for|not after} {a refund|my money back}",
            "{no refund needed|you need not refund anything}",
            "I {returned|sent back} something {<when>|last year}, {that is settled|all fine}",
        ),
        held_out_asides=("keep the money, this is about something else", "returning it is not what I want"),
    ),
    "refund-status": Wording(
        sites=(
            "{where is my refund|where is the refund} {for order <order>|of <amount>|you promised <when>}",
            "I {returned|sent back} the <product> <span> ago and {still have no refund|the refund is not on my account}",
            "{when will|when do} I {get|receive|see} the refund {you approved|you promised|for the <product>}",
            "my refund {has not arrived|is still missing|hasn't shown up|is still pending} {|after <span>}",
            "you {said|wrote} the refund {was sent|was processed} {<when>|<span> ago} but {I see nothing|my bank has nothing}",
            "how long {does a refund take|until my refund is on my card|do refunds take}",
            "{has my refund been|was my refund} {processed|issued|sent} {yet|already}",
            "I {only got|was only refunded} part of the <amount>, {when does the rest come|where is the rest of the refund}",
            "{what is the status of|any update on} my refund {|for <product>|from <when>}",
            "{still waiting|I keep waiting} for {the refund|the money} from {my return|the return of order <order>}",
            "the {repayment|reimbursement} {for <product>|of <amount>} {is overdue|is not in my account|was never credited}",
            "you {received|confirmed} my {return|parcel back} <span> ago, {why is the money not here|when is it credited}",
            "{have you|did you} {already |}{transfer|transferred} the {repayment|reimbursement|refund} {|of <amount>}",
            "{can you trace|please check} the {refund|repayment} {for|from} {order <order>|the return of the <product>}",
        ),
        held_out=(
            "{the warehouse confirmed my return|you received my parcel back} <span> ago, {yet the money has not been credited|so why is nothing credited}",
            "{did you already transfer|have you transferred} the {reimbursement|repayment} {|of <amount>}",
            "the reimbursement {you announced|agreed <when>} {never showed up|is overdue|is not visible} in my account",
            "{how much longer|how many more days} {must I wait|before I get} {for|} the money back {from|after} my return",
            "{please trace|can you look up} the repayment for {order <order>|the <product> I sent back}",
        ),
        asides=(
            "the refund {for the other order|from last time} {came|arrived} {quickly|fine}",
            "{I got my refund|my refund is here}, {thanks|so that is done}",
            "the refund is not {the issue|why I write}",
        ),
        held_out_asides=("the money from my return was credited long ago", "the repayment went smoothly"),
    ),
    "change-address": Wording(
        sites=(
            "I {moved|have moved|am moving} to <city> {<when>|} and {need|want} to {change|update} my address",
            "{how do I|how can I|where can I} {change|update|edit} my {address|postal address|delivery address}",
            "{please|can you} {update|change} {the address on my account|my home address} to <street>, <city>",
            "my {new|current} address is <street>, <city>, {please correct it|please change it in your records}",
            "{my letters|statements|my post} {go|are still going} to my old {address|flat}, {I live in <city> now|I moved <when>}",
            "the address {on my profile|you have on file} is {wrong|outdated|my old one}, {it should be <street>|can I change it}",
            "{we are moving|we move} {<when>|soon}, {what do you need|which form do I need} to {register|record} the new address",
            "{there is a typo in|you misspelled} my {street|address}, {please fix it|it should read <street>}",
            "can I {have|set} a different {billing|delivery|postal} address {for my account|from <when>|in <city>}",
            "I {got married and moved|moved in with my partner} and {have a new address|the address must be changed}",
            "{from <when>|starting <when>} {I live|I will live} {at <street>|in <city>}, {please note it|please register it}",
            "{send|please send} my {mail|letters} to <street>, <city> {from now on|instead of the old place}",
            "my {postcode|house number} {is wrong in your system|must be corrected}, {it is now <city>|how do I amend it}",
            "I {do not live|no longer live} at {<street>|my old home}, {where do I tell you|adjust your files please}",
        ),
        held_out=(
            "{as of <when>|starting <when>} {I live at|you will find me at} <street>, <city>, {note it down please|adjust your files}",
            "{relocating|I relocated} to <city>, {send my mail there from now on|how do I let you know where I live}",
            "my {house number|postcode|street name} in your system is {not right|incorrect}, {correct that please|what is the way to amend it}",
            "{I do not live at|I left} <street> any more, {mail should go to <city>|please register my new home}",
            "{switch|set} my {residence|mailing details} to <street>",
        ),
        asides=(
            "{my address is correct|the address has not changed|I did not move}",
            "I {changed|updated} my address {<when>|last month} {already|myself}",
            "you have the right address",
        ),
        held_out_asides=("where I live is still the same", "the postal details you have are right"),
    ),
    "password-reset": Wording(
        sites=(
            "I {forgot|have forgotten|don't remember|can't remember} my {password|login|passcode}",
            "{I can't log in|I cannot log in|I am unable to sign in} {|on my <device> }{since <when>|, it says wrong password}",
            "{how do I|how can I|where do I} {reset|change} my password{| on my <device>}",
            "the {reset link|password email|reset email} {never arrives|does not work|has expired}",
            "{my account is locked|I am locked out|I got locked out} after {three attempts|too many wrong passwords}",
            "{please|can you} {reset|send me a new} {my password|password for my account}",
            "the {app|website} {does not accept|rejects|keeps refusing} my password{| since <when>| on my <device>}",
            "I {got|bought} a new <device> and {can't sign in|the login code goes to the old one}",
            "I {need|want} a new password, {the old one does not work|somebody may know mine}",
            "{the code|the login code} {by text|by email} {never comes|is not accepted} {when I log in|so I cannot sign in}",
            "{signing in|my login} {fails|is refused} {every time|again and again}, {help me get in|what are my credentials}",
            "I {can't get into|have no access to} my {account|profile} {|from my <device>}, {it says invalid|access denied}",
            "{restore|unlock} my {access|login}, {I typed it wrong|the verification code does not reach me}",
            "{what do I press|where do I click} {if|when} I {lost my sign-in details|no longer know my passcode}",
        ),
        held_out=(
            "{no longer able to get into|can't get into} my {profile|account} {|from my <device>}, {credentials are refused|it keeps saying invalid}",
            "{which button do I press|what do I do} {when|if} I {no longer know|have lost} my {PIN for the app|sign-in details}",
            "{my login fails|signing in fails} {every time|over and over}, {give me fresh credentials|help me back in}",
            "{access denied|it says access denied} on my <device>, {my passphrase slipped my mind|what was my secret word again}",
            "{restore|recover} my access, {I typed it wrong too often|the verification message does not reach me}",
        ),
        asides=(
            "{I can log in|logging in works|my password works} {fine|without problems}",
            "I {reset|changed} my password {<when>|already}",
            "I see {this|it} when I log in {|on my <device>}",
        ),
        held_out_asides=("getting into the app is no problem", "I am signed in on my <device>"),
    ),
    "close-account": Wording(
        sites=(
            "I {want|would like|wish} to {close|cancel|delete} my {account|membership|contract}",
            "{how do I|how can I} {close|cancel|delete|terminate} my {account|subscription|membership}",
            "{please|can you} {close|delete|cancel} my account {|and all my data |today }{|, I no longer use it}",
            "I {am leaving|want to leave} {for another bank|you}, {close everything|please end my contract}",
            "{cancel|please cancel|stop} my {subscription|plan|membership} {at the end of the month|from <when>|immediately}",
            "I {no longer need|do not use} {the account|my account|your service}, {what do I do to close it|delete it please}",
            "{my mother died|my father passed away} <when> and {her|his|the} account {must be closed|has to be closed}",
            "{your fees|the monthly fees} are too high, {I want to cancel|I am closing my account}",
            "{what happens|is there a fee} {when|if} I {close|cancel} my account{| before <when>}",
            "I {moved abroad|moved to <city>} and {want|have} to {close|end} my {account|contract}",
            "I {quit|am done}, {shut down my profile|end everything|take me off your customer list}",
            "{this is my notice|I give notice} {for|to end} my {contract|membership} {|from <when>}",
            "{do not renew|please do not renew} my {subscription|contract}, {I found a better offer|I stop being a customer}",
            "I {decided to leave|do not want to stay}, {which form do I sign to terminate|erase my data and close it}",
        ),
        held_out=(
            "{I have decided to leave|it is time to say goodbye}, {wind up|shut down} my {account|profile} {by <when>|}",
            "{remove|erase} me from your {system|customer list}, {I do not want to be a customer any longer|I found a better offer}",
            "{I hereby give notice|this is my notice} {for|on} my {contract|plan} {as of <when>|}",
            "{do not renew|I do not wish to renew} my {plan|membership}, {I am done|it ends here}",
            "{which steps|what paperwork} does it take to {quit|stop being a client|terminate everything with you}",
        ),
        asides=(
            "I {do not want|would hate} to {close my account|cancel}",
            "{I have been a customer|I have had my account} for <years> years",
            "I {closed|cancelled} another account {<when>|once}, {not this one|this is a different one}",
        ),
        held_out_asides=("I intend to stay your customer", "leaving you is not what I have in mind"),
    ),
    "delivery-late": Wording(
        sites=(
            "where is my {order|parcel|package}{| with the <product>| <order>}",
            "my <product> {has not arrived|still isn't here|hasn't been delivered} {|after <span>}",
            "{I ordered|I bought} <product> {<when>|<span> ago} and {it has not come|nothing was delivered}",
            "{when will|when does} {order <order>|my <product>|the parcel} {arrive|come|be delivered}",
            "the {tracking|tracking page} {has not moved|shows nothing|says delayed} {for <span>|since <when>}",
            "{the driver|the courier} {never came|did not ring|left no note} {<when>|} and {my parcel is gone|I have no parcel}",
            "the {parcel|order} was {due|promised for} <when>, {it is late|why is it late}",
            "it says {delivered|delivered <when>} but I {did not get|never received} {the parcel|my <product>|anything}",
            "{is my order|has my order been} {delayed|shipped|sent} {|already|yet}",
            "only {half|part} of {my order|order <order>} {came|arrived}, {when does the rest come|the <product> is missing}",
            "{why is|how come} my {shipment|<product>} {is |}{taking so long|stuck in <city>|not here}",
            "the box {with my <product> |}{is stuck|has been sitting} {at the depot|in <city>} {since <when>|for <span>}",
            "{your driver|the courier} {left my parcel at a wrong house|gave my order to a stranger}, {where is it now|I have nothing}",
            "{no news|no sign} of my {shipment|purchase} {for <span>|since <when>}, {which day does it come|has it been lost}",
        ),
        held_out=(
            "{how come|why is it that} {the <product>|my purchase} {is taking so long|is not here yet}",
            "{your courier|the delivery man} {dropped my <product> at a wrong door|says he was here but I saw nobody}",
            "{any idea|can you say} {what day|when} {my shipment|the <product> I bought} {turns up|gets to <city>}",
            "{<span> without|almost <span> and no} {sign of|news of} {the shipment|my <product>}",
            "{the box|my box} {seems stuck|is stuck} {in <city>|at the depot} {since <when>|}",
        ),
        asides=(
            "the {parcel|order} {arrived|came} {on time|<when>}",
            "the delivery {itself was quick|was fine}",
            "I am not waiting for {a parcel|any order}",
        ),
        held_out_asides=("the courier did a good job", "the <product> reached me without delay"),
    ),
    "invoice-copy": Wording(
        sites=(
            "{please send me|can you send me|I need} {the invoice|a copy of the invoice|a receipt} {for order <order>|for the <product>|from <when>}",
            "{where can I find|where do I find|how do I download} {my invoices|the invoice|my receipts|my bills}",
            "I {need|require} {an invoice|a receipt} {for my taxes|for my employer|for the accountant} {|, order <order>}",
            "I {never got|did not receive|have not received} {an invoice|a receipt|the bill} for {the <product>|order <order>|<amount>}",
            "the invoice {has|shows} {the wrong company name|no tax number|the old company}, {please send a new one|can it be reissued}",
            "{can I have|could I get} {last year's invoices|all invoices since <when>|a monthly bill} {by email|as PDF|on paper}",
            "{my accountant asks for|I need to hand in} {a receipt|the bill|proof of payment} for {<amount>|the <product>}",
            "the {link to|PDF of} my invoice {does not open|gives an error}, {please email it|can you send it}",
            "{a copy of|copy of} {my bill|the receipt} for <product> {|bought <when> }please",
            "{I deleted|I lost} {the receipt|the invoice|the email with the invoice} for the <product>, {can you send it again|need another one}",
            "{my boss|the tax office} {wants|needs} {a document|proof} of what I paid {for the <product>|for order <order>}, {please provide it|mail it please}",
            "{forward me|print me|reissue} the {bill|invoice|receipt} {of <when>|for <amount>|for order <order>}",
            "{do you have|is there} a PDF {with the VAT|showing what I paid} {for <product>|}",
            "{bookkeeping|our accounting} {misses|still lacks} the {bill|invoice} {for <amount>|for order <order>}",
        ),
        held_out=(
            "{the tax office wants|my boss wants} {written proof|a document} {of what I paid|of the <amount>} {for the <product>|}, {can you provide it|mail it please}",
            "{reissue|print me|forward me} the {bill|paperwork|statement} {for|belonging to} {order <order>|my purchase <when>}",
            "{is there|do you have} {a PDF|a document} {showing|that states} {the VAT|what I paid} for {order <order>|the <product>}",
            "{bookkeeping|our bookkeeping department} {is missing|lacks} the {bill|document} for <amount>",
            "my {purchase came|<product> was delivered} without {a receipt|any bill}, {where do I get it|send one along please}",
        ),
        asides=(
            "{I have the invoice|the invoice is here|I kept the receipt}",
            "the invoice {says|shows} <amount>",
            "{I can send you|I still have} {the receipt|a copy of the bill}",
        ),
        held_out_asides=("all the paperwork is in front of me", "the bill lists <amount>"),
    ),
}

#: slot -> (values at the sites, values held out for the test set)
SLOTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "when": (
        (
            "yesterday",
            "this morning",
            "last night",
            "on Monday",
            "on Friday",
            "last week",
            "two days ago",
            "on 3 March",
        ),
        (
            "on Sunday",
            "the day before yesterday",
            "at the weekend",
            "on 21 June",
            "earlier today",
            "last Thursday",
        ),
    ),
    "span": (
        ("a week", "two weeks", "ten days", "five working days", "a month", "three weeks"),
        ("nine days", "four weeks", "six working days", "a fortnight"),
    ),
    "years": (("two", "three", "five", "eight", "ten"), ("four", "six", "nearly seven")),
    "city": (
        ("Leeds", "Lyon", "Hamburg", "Porto", "Toronto", "Bristol", "Utrecht", "Austin", "Malmö", "Turin"),
        ("Glasgow", "Nantes", "Leipzig", "Seville", "Denver", "Ghent"),
    ),
    "street": (
        (
            "14 Mill Lane",
            "Rue des Lilas 8",
            "Gartenstr. 21",
            "77 Oak Avenue",
            "3 Station Road",
            "Calle Sol 12",
        ),
        ("52 Harbour Street", "Bergweg 9", "18 Maple Drive", "Via Roma 40"),
    ),
    "product": (
        (
            "headphones",
            "coffee machine",
            "winter coat",
            "running shoes",
            "desk lamp",
            "phone case",
            "tablet",
            "backpack",
        ),
        ("keyboard", "garden chair", "rain jacket", "kettle", "office chair", "watch"),
    ),
    "merchant": (
        (
            "Northgate Stores",
            "Lumen Café",
            "QuickRide",
            "Bluebird Books",
            "Telvio",
            "Parkwell",
            "Mira Fashion",
        ),
        ("Oakline Market", "Fernhill Sports", "StreamHub", "Petrolia", "Casa Verde"),
    ),
    "amount": (
        ("12.99 euros", "$45", "£30", "89.50", "250 euros", "$7.20", "£119", "1,040 euros"),
        ("64 euros", "$18.75", "£205", "33.10"),
    ),
    "order": (
        ("A-1047", "77812", "B20-331", "no. 5590", "#90213", "C-4418"),
        ("D-7730", "#31877", "no. 6402"),
    ),
    "device": (("phone", "laptop", "iPad", "computer"), ("tablet", "work computer", "mobile")),
}

GREETINGS = (
    "hi",
    "hello",
    "good morning",
    "dear team",
    "hey",
    "good evening",
    "hi there",
    "hello support",
    "dear sir or madam",
)
#: says nothing about the intent
SMALL_TALK = (
    "I have a question",
    "I hope you can help me",
    "this is the second time I write",
    "I tried to call but nobody answered",
    "I could not find this on your website",
    "the chat bot did not understand me",
    "I have been a customer for <years> years",
    "I am writing from <city>",
    "sorry to bother you",
    "it is about my account",
    "I paid with my card as usual",
    "my order number is <order>",
)
FEELINGS = (
    "this is urgent",
    "I am quite worried",
    "this is very annoying",
    "I need this before the weekend",
    "I am not happy about it",
    "no rush",
    "I really need this today",
    "I do not understand what went wrong",
)
CLOSINGS = (
    "thanks",
    "thank you",
    "many thanks in advance",
    "please reply by email",
    "please call me back",
    "kind regards, <name>",
    "best, <name>",
    "cheers",
    "please help",
    "let me know",
)
FIRST_NAMES = (
    "Anna",
    "Jonas",
    "Priya",
    "Mateo",
    "Wei",
    "Fatima",
    "Tom",
    "Elif",
    "Kofi",
    "Ines",
    "Liam",
    "Olga",
)
LAST_NAMES = (
    "Berg",
    "Novak",
    "Shah",
    "Moreau",
    "Chen",
    "Haddad",
    "Fields",
    "Kaya",
    "Mensah",
    "Costa",
    "Ryan",
    "Petrova",
)

#: around an identifier ``%``; none of them says what the message is about
IDENTIFIER_SENTENCES: dict[str, tuple[str, ...]] = {
    "email": (
        "my email is %",
        "you can write to %",
        "the account is under %",
        "reply to % please",
        "registered as %",
    ),
    "phone": (
        "my number is %",
        "call me on %",
        "you can reach me at %",
        "phone: %",
        "text me at % if needed",
    ),
    "card": ("the card number is %", "card %", "my card: %", "it is the card % in case you need it"),
    "iban": ("my IBAN is %", "account %", "bank details: %", "my bank account is %"),
}

#: careless spellings a person types in a hurry
SHORTHAND = {
    "please": "pls",
    "you": "u",
    "your": "ur",
    "I am": "im",
    "account": "acct",
    "because": "cos",
    "cannot": "cant",
    "can't": "cant",
    "don't": "dont",
    "do not": "dont",
    "thanks": "thx",
    "password": "pw",
    "and": "&",
    "address": "adress",
    "received": "recieved",
    "refund": "refnd",
}
