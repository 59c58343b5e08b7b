"""Numbers, units and dates: two questions that name different amounts have different answers.

Compares what is written, not what it amounts to: 3.10 is not 3.1 (versions), but 1,000 and 1000 agree.
"""

import re

from gateway.cache.guard.facts import Facts
from gateway.cache.guard.lexicon import wordset

_DIGITS = re.compile(r"\d[\d.,:]*")
_NEGATIVE = re.compile(r"(?<![^\s(=])-\d[\d.,:]*")
_THOUSANDS = re.compile(r"(\d)k\b")
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{2,3})+(?:\.\d+)?")
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen twenty"
)
_WORDS = {
    word: str(value)
    for value, word in enumerate(_SMALL.split())
} | {"thirty": "30", "forty": "40", "fifty": "50", "sixty": "60", "seventy": "70", "eighty": "80",
     "ninety": "90",
     "hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000", "dozen": "12",
     "twice": "2", "thrice": "3", "third": "#3", "fourth": "#4", "fifth": "#5", "sixth": "#6", "tenth": "#10",
     "half": "1/2", "double": "x2", "triple": "x3"}  # fmt: skip
# "one" is a pronoun nearly everywhere; before these it counts.
_COUNTED = wordset(
    """
    day days week weeks month months year years hour hours minute minutes second seconds word words
    sentence paragraph page line percent million billion hundred thousand lakh dozen kg km mile liter
    litre
    """
)

_UNITS = {
    name: unit
    for unit, names in {
        "m": "m meter meters metre metres", "km": "km kms kilometer kilometers kilometre kilometres",
        "cm": "cm centimeter centimeters centimetre centimetres", "mm": "mm millimeter millimeters",
        "mi": "mile miles", "ft": "ft foot feet", "in": "inch inches", "yd": "yard yards",
        "kg": "kg kgs kilo kilos kilogram kilograms", "g": "g gram grams gm", "mg": "mg milligram milligrams",
        "t": "ton tons tonne tonnes", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
        "l": "l liter liters litre litres", "ml": "ml milliliter milliliters", "gal": "gallon gallons",
        "s": "sec secs second seconds", "min": "min mins minute minutes", "h": "hr hrs hour hours",
        "d": "day days", "w": "week weeks", "mo": "month months", "y": "year years yr yrs",
        "ms": "ms millisecond milliseconds",
        "b": "byte bytes", "bit": "bit bits", "kb": "kb kilobyte kilobytes",
        "mb": "mb megabyte megabytes", "gb": "gb gigabyte gigabytes", "tb": "tb terabyte terabytes",
        "mbps": "mbps", "gbps": "gbps", "hz": "hz hertz", "khz": "khz", "mhz": "mhz", "ghz": "ghz",
        "v": "v volt volts", "w.": "watt watts", "kw": "kw kilowatt", "kwh": "kwh", "a.": "amp amps ampere",
        "%": "percent", "c": "celsius", "f": "fahrenheit", "k.": "kelvin", "rad": "radian radians",
        "deg": "degree degrees", "mph": "mph", "kmh": "kmph kmh", "hp": "hp horsepower",
    }.items()
    for name in names.split()
}  # fmt: skip
# Scales of which one cannot be read for another wherever they stand.
_ANYWHERE = wordset(
    "celsius fahrenheit kelvin km kilometers kilometres miles kg kilograms pounds lbs litres liters gallons "
    "inches cm"
)
_CURRENCY = {
    name: code
    for code, names in {
        "usd": "$ usd dollar dollars", "eur": "€ eur euro euros", "gbp": "£ gbp", "jpy": "¥ jpy yen",
        "inr": "₹ inr rs rupee rupees", "cny": "cny yuan rmb", "btc": "btc bitcoin bitcoins", "chf": "chf",
        "aud": "aud", "cad": "cad", "eth": "eth ethereum", "rub": "ruble rubles",
    }.items()
    for name in names.split()
}  # fmt: skip
_SYMBOLS = frozenset("$€£¥₹%°")
_ATTACHED = re.compile(r"(?<![^\W_])\d[\d.,]*\s?-?([^\W\d_]{1,12})(?![^\W_])")

_MONTH_NAMES = "january february march april may june july august september october november december"
_MONTHS = {
    name: full[:3]
    for full in _MONTH_NAMES.split()
    if full not in ("march", "may")
    for name in (full, full[:3])
} | {"sept": "sep"}
_WEEKDAYS = {
    name: day[:3]
    for day in ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
    for name in (day, day + "s")
}
_RELATIVE = frozenset({"yesterday", "tomorrow", "tonight", "weekend", "weekday", "ago"})
_AMBIGUOUS = re.compile(
    r"(?<=[a-z,] )(?:May|March)\b|\b(?i:may|march)\.? \d|\d(?:st|nd|rd|th)?(?: of)? (?i:may|march)\b"
)
_WHICH_PERIOD = wordset("last next this previous past coming")
_PERIOD = re.compile(
    r"\b(last|next|this|previous|past|coming)\s+(second|minute|hour|day|night|week|month|quarter|year|decade"
    r"|century|spring|summer|autumn|fall|winter)s?\b"
)


def numbers(facts: Facts) -> frozenset[str]:
    """Every number of the text as written, words up to twenty and the round ones as digits."""
    found: set[str] = set()
    text = facts.lower
    if facts.has_digit:
        found.update(_number(raw) for raw in _DIGITS.findall(_THOUSANDS.sub(r"\g<1>000", text)))
        if "-" in text:
            found.update(_number(raw) for raw in _NEGATIVE.findall(text))
    words = facts.words
    for at, word in enumerate(words):
        value = _WORDS.get(word)
        if value is not None and (value != "1" or (at + 1 < len(words) and words[at + 1] in _COUNTED)):
            found.add(value)
    return frozenset(found)


def _number(raw: str) -> str:
    raw = raw.rstrip(".,:")
    return raw.replace(",", "") if _GROUPED.fullmatch(raw) else raw


def number(asked: Facts, stored: Facts) -> bool:
    return asked.of(numbers) == stored.of(numbers)


def units(facts: Facts) -> frozenset[str]:
    """Units that follow a number, scales and currencies wherever they stand."""
    text = facts.lower
    vocabulary = facts.vocabulary
    found = {_UNITS[word] for word in vocabulary & _ANYWHERE}
    found.update(_CURRENCY[word] for word in vocabulary if word in _CURRENCY)
    found.update(_CURRENCY.get(symbol, symbol) for symbol in _SYMBOLS & facts.characters)
    if facts.has_digit:
        for name in _ATTACHED.findall(text):
            if name in _UNITS:
                found.add(_UNITS[name])
            elif name in _CURRENCY:
                found.add(_CURRENCY[name])
    return frozenset(found)


def unit(asked: Facts, stored: Facts) -> bool:
    return asked.of(units) == stored.of(units)


def dates(facts: Facts) -> frozenset[str]:
    """Months, weekdays, relative days and periods ("last week"). Years are numbers."""
    vocabulary = facts.vocabulary
    found = {_MONTHS[word] for word in vocabulary if word in _MONTHS}
    if ("may" in vocabulary or "march" in vocabulary) and (match := _AMBIGUOUS.search(facts.plain)):
        found.add("may" if "may" in match.group().lower() else "mar")
    found.update(_WEEKDAYS[word] for word in vocabulary if word in _WEEKDAYS)
    found.update(vocabulary & _RELATIVE)
    if vocabulary & _WHICH_PERIOD:
        found.update(match.group().rstrip("s") for match in _PERIOD.finditer(facts.lower))
    return frozenset(found)


def date(asked: Facts, stored: Facts) -> bool:
    return asked.of(dates) == stored.of(dates)
