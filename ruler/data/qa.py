"""Question answering: the documents that answer a question, among others.

Sample i is question i of the file (of those whose documents fit). Documents go in while they fit: those that answer,
then those that the data set gives as distractors (SQuAD: paragraphs of the same article, in random order), then random
others, all put into the fixed order. Where a document does not fit, up to a dozen further ones are tried. Should the
file be too small for the length, its documents are repeated.
"""

from sampling import Sample, Setting, Task, TooShort, fixed_order
from sources import Questions
from templates import Texts
from tokens import Tokens

MISSES = 12


class QuestionAnswering(Task):
    step = 10

    def __init__(self, tokens: Tokens, setting: Setting, texts: Texts, args: dict, questions: Questions):
        super().__init__(tokens, setting)
        self.template, self.document = texts.templates["qa"], texts.document
        self.head, self.tail = self.full(self.template)
        self.head_cost = tokens.beginning(self.head)
        self.documents, self.costs = questions.documents, {}
        # the cost of a document is that of number 7; the number's own is added
        self.number_costs = [cost - tokens.cost("Document 7") for cost in self.costs_of_numbers(64)]
        self.questions = self.usable(questions)
        self.calibrate()

    def costs_of_numbers(self, n: int) -> list[int]:
        return self.tokens.costs([f"Document {i}" for i in range(1, n + 1)])

    def usable(self, questions: Questions) -> list[dict]:
        """The first questions, as many as samples are wanted, whose documents fit. ValueError if there are too few."""
        found, skipped = [], 0
        for question in questions.questions:
            if len(found) == self.setting.rows:
                break
            self.measure(question["needed"])
            fixed = self.head_cost + self.tokens.ending(self.ending(question)) + 8  # the numbers
            fits = fixed + sum(self.costs[i] for i in question["needed"]) <= self.room
            found += [question] * fits
            skipped += not fits
        if len(found) < self.setting.rows:
            if skipped:
                raise TooShort(f"{self.setting.name} has only {len(found)} questions whose documents it can hold")
            raise ValueError(
                f"{self.setting.name}: {len(found)} questions are in the file, {self.setting.rows} are wanted"
            )
        return found

    def ending(self, question: dict) -> str:
        """What stands behind the blank line after the last document."""
        return self.tail.removeprefix("\n\n").replace("{query}", question["query"])

    def render(self, number: int, document: int) -> str:
        return self.document.replace("{i}", str(number)).replace("{document}", self.documents[document])

    def measure(self, documents: list[int]) -> None:
        new = [i for i in documents if i not in self.costs]
        costs = self.tokens.costs([self.render(7, i) + "\n\n" for i in new])
        self.costs.update(zip(new, costs, strict=True))

    def candidates(self, rng, question: dict):
        """Indices of documents, best first; in the end all of them, and again."""
        given = question["given"]
        yield from question["needed"]
        yield from rng.sample(given, len(given)) if question["shuffle"] else given
        first, n = set(question["needed"] + given), len(self.documents)
        for _ in range(self.room):
            swapped = {}  # a shuffle of which only what is used is done
            for i in range(n):
                at = rng.randrange(i, n)
                drawn = swapped.get(at, at)
                swapped[at] = swapped.get(i, i)
                if drawn not in first:
                    yield drawn
            first = set()

    def build(self, index: int, room: int, attempt: int) -> Sample:
        question = self.questions[index]
        ending = self.ending(question)
        total, chosen, misses, needed = self.head_cost + self.tokens.ending(ending), [], 0, len(question["needed"])
        sums = []
        for document in self.candidates(self.rng(index, attempt), question):
            if len(chosen) == len(self.number_costs):
                base = self.tokens.cost("Document 7")
                self.number_costs = [cost - base for cost in self.costs_of_numbers(2 * len(chosen))]
            self.measure([document])
            cost = self.costs[document] + self.number_costs[len(chosen)]
            if total + cost <= room:
                chosen.append(document)
                total += cost
                sums.append(total)
                continue
            misses += 1
            if len(chosen) < needed or misses > MISSES:
                break
        if len(chosen) < needed:
            raise TooShort(f"{self.setting.name} cannot hold the documents of question {index}")
        n = max(needed, self.size(len(chosen)))
        order = fixed_order(self.setting.seed, n)
        rendered = "\n\n".join(self.render(number, chosen[at]) for number, at in enumerate(order, 1))
        return Sample(f"{self.head}{rendered}\n\n{ending}", self.template.prefix, question["answers"], sums[n - 1], n)
