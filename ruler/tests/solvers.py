"""A solver for each family of tasks. It reads nothing but the prompt."""

import re
from collections import Counter

NEEDLE = re.compile(r"One of the special magic \w+ for (.+?) is: (.+?)\.")
NIAH = re.compile(r"What (?:is|are all) the special magic \w+ for (.+) mentioned in the provided text\?")


def niah(prompt: str) -> list[str]:
    asked = re.split(", and |, ", NIAH.search(prompt).group(1))
    return [value for key, value in NEEDLE.findall(prompt) if key in asked]


def variable_tracking(prompt: str) -> list[str]:
    prompt = prompt[prompt.rindex("Memorize and track") :]
    names = [re.search(r"assigned the value (\d+) in", prompt).group(1)]
    for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", prompt):
        if value in names:
            names.append(name)
    return names[1:]


def list_items(prompt: str) -> Counter:
    """How often each word is in the numbered list of the task."""
    text = prompt[prompt.rindex("Below is a numbered list") : prompt.rindex("\nQuestion:")]
    return Counter(re.findall(r"\d+\. (.+?)(?= \d+\. |$)", text.split("\n", 1)[1]))


def common_words_extraction(prompt: str) -> list[str]:
    return [word for word, _ in list_items(prompt).most_common(10)]


def coded_words(prompt: str) -> Counter:
    text = prompt[prompt.index("coded words. ") + len("coded words. ") : prompt.rindex("\nQuestion:")]
    return Counter(text.split(" "))


def freq_words_extraction(prompt: str) -> list[str]:
    return [word for word, _ in coded_words(prompt).most_common(4)][1:]  # without the dots


def qa(prompt: str) -> list[str]:
    """For the stand-in documents."""
    question = prompt[prompt.rindex("Question: ") :]
    if bridge := re.search(r"was the designer of the (.+ Bridge) born", question):
        person = re.search(rf"{bridge.group(1)}\nThe .+? It was designed by (\w+ \w+)\.", prompt).group(1)
        town, year = re.search(rf"{person} was born in (\w+) in (\d+)\.", prompt).groups()
        return [town if "which town" in question else year]
    building, town = re.search(r"the (\w+(?: \w+)?) of (\w+)(?: built)?\?", question).groups()
    year, person = re.search(rf"The {building} of {town} was built in (\d+) by the \w+ (\w+ \w+)\.", prompt).groups()
    return [person if "Who built" in question else year]
