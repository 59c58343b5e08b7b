"""Named entities: what one side names, the other must name, in any case.

A word counts as a name when it is capitalised inside a sentence, an acronym, written in mixed case, or in a
short list of well-known names (so that lower-cased questions are caught too).
"""

from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import key, wordset

_PLACES = """
afghanistan afghan albania algeria argentina argentinian armenia australia australian austria austrian
azerbaijan
bangladesh bangladeshi belarus belgium belgian bhutan bolivia brazil brazilian britain british bulgaria
cambodia canada
canadian chile china chinese colombia croatia cuba cuban cyprus denmark danish dutch ecuador egypt
egyptian england
english estonia ethiopia europe european finland finnish france french georgia germany german ghana
greece greek
guatemala haiti hungary hungarian iceland india indian indonesia indonesian iran iranian iraq iraqi
ireland irish
israel israeli italy italian jamaica japan japanese jordan kazakhstan kenya korea korean kuwait latvia
lebanon libya
lithuania luxembourg malaysia malaysian maldives malta mexico mexican mongolia morocco myanmar nepal
nepali netherlands
nigeria nigerian norway norwegian oman pakistan pakistani palestine palestinian panama paraguay peru
philippines filipino
poland polish portugal portuguese qatar romania romanian russia russian rwanda scotland scottish serbia
singapore
slovakia slovenia somalia spain spanish sri sudan sweden swedish switzerland swiss syria syrian taiwan
taiwanese
tanzania thailand thai tunisia turkey turkish uganda ukraine ukrainian uruguay usa america american
venezuela vietnam
vietnamese wales yemen zambia zimbabwe africa african asia asian dubai
alabama alaska arizona arkansas california colorado connecticut delaware florida hawaii idaho illinois
indiana iowa
kansas kentucky louisiana maine maryland massachusetts michigan minnesota mississippi missouri montana
nebraska nevada
ohio oklahoma oregon pennsylvania tennessee texas utah vermont virginia washington wisconsin wyoming
amsterdam athens atlanta austin bangalore bangkok barcelona beijing berlin boston brussels budapest
cairo chennai
chicago copenhagen dallas delhi denver detroit dublin frankfurt geneva hamburg helsinki houston
hyderabad istanbul
jakarta jaipur johannesburg karachi kolkata lahore lisbon london madrid manila melbourne miami milan
moscow mumbai
munich nairobi oslo paris philadelphia phoenix prague pune rome seattle seoul shanghai stockholm sydney
tokyo toronto
vancouver vienna warsaw zurich ahmedabad noida gurgaon lucknow kerala punjab gujarat maharashtra bihar goa
"""
_TECHNOLOGY = """
python java javascript typescript golang rust ruby php perl swift kotlin scala haskell erlang elixir
fortran cobol matlab
lua julia clojure bash powershell sql mysql postgresql postgres mongodb sqlite oracle redis html css xml
json yaml react
angular vue django flask rails spring laravel node.js nodejs tensorflow pytorch keras numpy pandas
docker kubernetes git
github gitlab linux ubuntu debian fedora centos windows macos android ios iphone ipad macbook unix excel
c++ c# f# aws azure gcp
"""
_COMPANIES = """
google microsoft apple amazon facebook twitter instagram whatsapp snapchat youtube netflix spotify uber
lyft airbnb tesla
toyota honda ford bmw audi mercedes samsung sony nokia xiaomi huawei intel amd nvidia ibm dell lenovo hp
cisco adobe
salesforce linkedin paypal visa mastercard walmart target starbucks mcdonalds pepsi nike adidas tcs
infosys wipro
cognizant accenture deloitte flipkart paytm quora reddit wikipedia tinder skype gmail yahoo bing ebay
alibaba openai
hindi urdu tamil telugu bengali arabic hebrew latin mandarin islam muslim muslims christian christians
christianity hindu
hindus hinduism buddhism buddhist sikh jewish jews catholic
messi ronaldo obama clinton sanders modi putin hitler einstein
"""
_KNOWN = frozenset(f"{_PLACES} {_TECHNOLOGY} {_COMPANIES}".split())
# Capitalised by habit, not names.
_COMMON = wordset(
    """
    i i'm i've i'll i'd god internet web ok okay tv mr mrs ms dr sir a the is it what how why who when
    where which can do does did are if in on of to for and or my your pc usa vs
    """
)
# Words when small, names in capitals.
_ACRONYMS = frozenset({"it", "who", "us", "can", "and", "or", "for"})
_SENTENCE_END = frozenset(".?!:;\n\"'([{-–—•*/")


def names(facts: Facts) -> frozenset[str]:
    """Classes (as in `lexicon.key`) of the words that name something."""
    found = {key(word) for word in facts.vocabulary & _KNOWN}
    plain = facts.plain
    if not facts.has_capital or _shouted(facts.tokens):
        return frozenset(found)
    for token, start in facts.tokens:
        if token.islower() or not token[0].isalpha():
            continue
        if token[0].isupper() and token[1:].islower() and _opens_sentence(plain, start):
            continue
        if len(token) == 1 and _opens_sentence(plain, start):
            continue
        word = token.lower().split("'")[0]
        if word not in _COMMON or (word in _ACRONYMS and token.isupper()):
            found.add(key(word))
    return frozenset(found)


def _shouted(tokens: list[tuple[str, int]]) -> bool:
    """Mostly upper case, or a title with every word capitalised: capitals say nothing then."""
    capital = sum(token != token.lower() for token, _ in tokens)
    return len(tokens) >= 4 and capital > 0.7 * len(tokens)


def _opens_sentence(text: str, start: int) -> bool:
    before = text[max(0, start - 3) : start].rstrip(" \t")
    return not before or before[-1] in _SENTENCE_END


def keys(facts: Facts) -> frozenset[str]:
    return frozenset(key(word) for word in facts.vocabulary)


def entity(asked: Facts, stored: Facts) -> bool:
    left, right = asked.of(names), stored.of(names)
    if left == right:
        return True
    return _all_named(left - right, stored) and _all_named(right - left, asked)


def _all_named(missing: frozenset[str], other: Facts) -> bool:
    if not missing:
        return True
    unnamed = missing - other.of(keys)
    if not unnamed:
        return True
    joined = other.lower.replace(" ", "").replace("-", "").replace(".", "")
    return all(len(name) > 3 and name in joined for name in unnamed)
