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
    number = re.search(r"assigned the value (\d+) in", prompt).group(1)
    names = {number}
    found = []
    for name, value in re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", prompt):
        if value in names:
            names.add(name)
            found.append(name)
    return found


def common_words_extraction(prompt: str) -> list[str]:
    listed = prompt[prompt.rindex("Below is a numbered list") : prompt.rindex("\nQuestion:")]
    items = re.findall(r"\d+\. (.+?)(?= \d+\. |$)", listed.split("\n", 1)[1])
    return [item for item, _ in Counter(items).most_common(10)]


def coded(prompt: str) -> list[str]:
    return prompt[prompt.index("coded words. ") + len("coded words. ") : prompt.rindex("\nQuestion:")].split(" ")


def freq_words_extraction(prompt: str) -> list[str]:
    counts = Counter(word for word in coded(prompt) if word != "...")
    return [word for word, _ in counts.most_common(3)]


def qa(prompt: str) -> list[str]:
    """For the made-up documents."""
    question = prompt[prompt.rindex("Question: ") :]
    if bridge := re.search(r"was the designer of the (.+ Bridge) born", question):
        person = re.search(rf"{bridge.group(1)}\nThe .+? It was designed by (\w+ \w+)\.", prompt).group(1)
        town, year = re.search(rf"{person} was born in (\w+) in (\d+)\.", prompt).groups()
        return [town if "which town" in question else year]
    thing = re.search(r"(?:the|was the) (\w+(?: \w+)?) of (\w+)(?: built)?\?", question)
    year, person = re.search(
        rf"The {thing[1]} of {thing[2]} was built in (\d+) by the \w+ (\w+ \w+)\.", prompt
    ).groups()
    return [person if "Who built" in question else year]


def score(answers: list[str], answer: str) -> float:
    """Share of the golds that are in the answer."""
    return sum(gold.lower() in answer.lower() for gold in answers) / len(answers)
