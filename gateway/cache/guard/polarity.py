"""Negation, comparatives and direction: words whose opposite turns the answer round.

Encoders put opposites closer together than many paraphrases, so no threshold can tell them apart.
"""

from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import key, stem, wordset

_NEGATIONS = wordset(
    """
    not never no none nobody nothing neither nor without cannot non nowhere hardly barely except unless
    """
)
_PREFIXES = tuple(
    sorted(wordset("un in im il ir dis non de mis anti under over hyper hypo pre post re ex sub"))
)

_COMPARATIVE = """
more most greater | less fewer least fewest lesser
better best | worse worst
bigger biggest larger largest | smaller smallest tinier littlest
faster fastest quicker quickest | slower slowest
higher highest taller tallest | lower lowest shorter shortest
longer longest | shorter shortest
older oldest elder eldest | newer newest younger youngest
earlier earliest sooner soonest | later latest
before prior | after afterwards following
max maximum maximize maximise | min minimum minimize minimise
stronger strongest | weaker weakest
cheaper cheapest | costlier costliest dearest expensive priciest
richer richest | poorer poorest
hotter hottest warmer | colder coldest cooler
easier easiest | harder hardest
safer safest | riskier riskiest deadliest dangerous
heavier heaviest | lighter lightest
good great | bad poor terrible
above over | below under beneath
major majority | minor minority
common | rare uncommon
smartest | dumbest stupidest
beautiful prettiest | ugly ugliest
"""
_DIRECTION = """
ascending ascend | descending descend
import imports importing imported | export exports exporting exported
upload uploading uploaded | download downloading downloaded
buy buying bought purchase | sell selling sold sale
deposit deposits depositing | withdraw withdrawal withdrawing withdrawn
encode encoding encoder | decode decoding decoder
encrypt encryption encrypting encrypted | decrypt decryption decrypting decrypted
compress compression | decompress decompression
increase increasing increased raise grow | decrease decreasing decreased reduce lower shrink
gain gaining gained | lose losing lost loss
left | right
up | down
upper | lower
open opening opened | close closing closed shut
start starting started begin | stop stopping stopped end ending finish quit
add adding added insert | remove removing removed delete deleting subtract
create creating created make | delete deleting deleted destroy
send sending sent | receive receiving received
push pushing | pull pulling
read reading | write writing written wrote
client | server
first | last
true | false
male males man men masculine | female females woman women feminine
boy boys guy guys | girl girls lady ladies
husband husbands | wife wives
boyfriend boyfriends | girlfriend girlfriends
uncle king prince gentleman | aunt queen princess
husband boyfriend | brother father son dad
wife girlfriend | sister mother daughter mom
father dad | son
mother mom | daughter
parent parents | child children kids
he his him himself | she her hers herself
enable enabling enabled | disable disabling disabled
lock locking locked | unlock unlocking unlocked
install installing installed | uninstall uninstalling uninstalled
subscribe | unsubscribe
connect | disconnect
activate activated | deactivate deactivated
follow | unfollow
legal legally allowed | illegal illegally forbidden prohibited banned
possible | impossible
safe safely | unsafe dangerous
healthy | unhealthy
pros pro advantages advantage benefits benefit | cons con disadvantages disadvantage drawbacks
strengths strength | weaknesses weakness
positive positively | negative negatively
success succeed successful | failure fail failing failed unsuccessful
love loving loved | hate hating hated
accept accepting accepted | reject refuse rejecting decline
win winning won | lose losing lost
north northern | south southern
east eastern | west western
internal inner inside indoor | external outer outside outdoor
input inputs | output outputs
login signin | logout signout
public | private
hot | cold
rich wealthy | poor
dead die death dying | alive live living birth born
old elderly | young new
black | white
day | night
summer | winter
morning | evening night
attack offense | defend defense defence
borrow borrowing | lend lending loan
hire hiring hired | fire firing fired
employer | employee employees
teacher teachers professor | student students
buyer | seller
landlord | tenant
lender | borrower
plaintiff | defendant
debit | credit
asset assets | liability liabilities
profit profits | loss losses
supply | demand
hardware | software
horizontal horizontally rows row | vertical vertically columns column
serial sequential synchronous | parallel concurrent asynchronous
static | dynamic
encourage | discourage
approve approval | deny denial reject
arrive arrival | depart departure leave
attach | detach
mount | unmount
show | hide
expand | collapse
include including | exclude excluding
lengthen | shorten
strengthen | weaken
heat heating | cool cooling
freeze | melt thaw
fill | empty
plus | minus
multiply multiplication | divide division
single | married
introvert introverted introverts | extrovert extroverted extroverts
theist religious believer | atheist atheists atheism
liberal liberals left-wing | conservative conservatives right-wing
democrat democrats democratic | republican republicans
vegetarian vegan veg | non-veg
online | offline
wet | dry
hard difficult tough | easy simple
strong | weak
fat | thin
tall | short
long | short
fast quick | slow
high | low
big large huge | small tiny little
full | empty
deep | shallow
cat cats | dog dogs
acid acidic | base basic alkaline
proton protons | electron electrons neutron
mitosis | meiosis
import | export
undergraduate undergrad bachelor bachelors ug | postgraduate graduate master masters ms pg phd
ms | phd
primary | secondary
single | double
android | ios iphone
mac macos | windows linux
jpg jpeg png | pdf
breakfast | dinner lunch
sunrise | sunset
past | future
"""


def _axes(table: str) -> dict[str, tuple[tuple[int, int], ...]]:
    """Stem → the (axis, side) it stands on, from "left words | right words" lines."""
    axes: dict[str, list[tuple[int, int]]] = {}
    for axis, line in enumerate(table.strip().splitlines()):
        for side, words in enumerate(line.split("|")):
            for word in words.split():
                if (axis, side) not in (places := axes.setdefault(word, [])):
                    places.append((axis, side))
    return {word: tuple(places) for word, places in axes.items()}


_COMPARATIVES = _axes(_COMPARATIVE)
_DIRECTIONS = _axes(_DIRECTION)


def negations(facts: Facts) -> int:
    """How many words deny. "or not" and "whether or not" ask for both sides and do not count."""
    words = facts.words
    count = 0
    for at, word in enumerate(words):
        if word in _NEGATIONS and not (word == "not" and at and words[at - 1] in ("or", "if", "why")):
            count += 1
    return count


def negation(asked: Facts, stored: Facts) -> bool:
    if asked.of(negations) != stored.of(negations):
        return False
    left, right = asked.vocabulary - stored.vocabulary, stored.vocabulary - asked.vocabulary
    if not left or not right:
        return True
    if _suffixed(left, right) or _suffixed(right, left):
        return False
    if not any(word.startswith(_PREFIXES) for word in left | right):
        return True
    one, two = set(map(stem, left)), set(map(stem, right))
    return not (_prefixed(one, two) or _prefixed(two, one))


def _prefixed(roots: set[str], others: set[str]) -> bool:
    """Whether a word of one side is a word of the other behind an opposing prefix ("lock", "unlock")."""
    return any(
        root.startswith(prefix) and len(root) - len(prefix) > 2 and root[len(prefix) :] in others
        for root in roots
        if root.startswith(_PREFIXES)
        for prefix in _PREFIXES
    )


def _suffixed(words: frozenset[str], others: frozenset[str]) -> bool:
    """ "useful" against "useless"."""
    return any(word.endswith("ful") and word[:-3] + "less" in others for word in words)


def comparatives(facts: Facts) -> dict[int, frozenset[int]]:
    return _sides(facts, _COMPARATIVES)


def directions(facts: Facts) -> dict[int, frozenset[int]]:
    found = _sides(facts, _DIRECTIONS)
    if not _SWITCHES.isdisjoint(facts.vocabulary):
        found |= _switched(facts.words)
    return found


# Verbs whose particle is their meaning: log in, log out; turn on, turn it off.
_SWITCHES = wordset(
    "log sign check opt zoom clock phase turn switch fade logged signed turned logging turning"
)
_PARTICLES = {"in": (-1, 0), "out": (-1, 1), "on": (-2, 0), "off": (-2, 1), "up": (-3, 0), "down": (-3, 1)}


def _switched(words: list[str]) -> dict[int, frozenset[int]]:
    """The first particle within four words of such a verb, as a side of an axis of its own."""
    for at, word in enumerate(words):
        if word in _SWITCHES:
            for particle in words[at + 1 : at + 5]:
                if particle in _PARTICLES:
                    axis, side = _PARTICLES[particle]
                    return {axis: frozenset((side,))}
    return {}


def _sides(facts: Facts, axes: dict[str, tuple[tuple[int, int], ...]]) -> dict[int, frozenset[int]]:
    found: dict[int, set[int]] = {}
    for word in facts.vocabulary:
        for axis, side in axes.get(word, ()):
            found.setdefault(axis, set()).add(side)
    return {axis: frozenset(sides) for axis, sides in found.items()}


def _opposed(left: dict[int, frozenset[int]], right: dict[int, frozenset[int]]) -> bool:
    return any(left[axis] != right[axis] for axis in left.keys() & right.keys())


def comparative(asked: Facts, stored: Facts) -> bool:
    return not _opposed(asked.of(comparatives), stored.of(comparatives))


def direction(asked: Facts, stored: Facts) -> bool:
    return not _opposed(asked.of(directions), stored.of(directions))


def poles(facts: Facts) -> frozenset[str]:
    """Classes of the words that have an opposite."""
    return frozenset(key(word) for word in facts.vocabulary if word in _DIRECTIONS or word in _COMPARATIVES)
