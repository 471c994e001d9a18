"""Question answering: the documents that answer a question, among others.

Sample i is question i of the file (of those whose documents fit). Documents go in while they fit: those that answer,
then those that the data set gives as distractors (SQuAD: paragraphs of the same article, in random order), then random
others, all put into the fixed order. Where a document does not fit, up to a dozen further ones are tried. Should the
file be too small for the length, its documents are repeated.
"""

from collections.abc import Iterator
from random import Random

from sampling import Job, Sample, Task, TooShort, fixed_order
from sources import Questions
from templates import Texts
from tokens import Tokens

MAX_MISSES = 12
NUMBERS = 8  # tokens that the numbers of a question's own documents may take


class QuestionAnswering(Task):
    step = 10

    def __init__(self, tokens: Tokens, job: Job, texts: Texts, questions: Questions):
        super().__init__(tokens, job)
        template, self.prefix = texts.templates["qa"]
        self.before, self.after = (template + self.prefix).split("{context}")
        self.document = texts.document
        self.documents = questions.documents
        self.document_tokens = {}
        self.questions = self.usable(questions.questions)
        self.calibrate()

    def usable(self, questions: list[dict]) -> list[dict]:
        """The first questions, as many as samples are wanted, whose documents fit. Raises ValueError if they are too
        few."""
        found, skipped = [], 0
        for question in questions:
            if len(found) == self.job.rows:
                break
            fixed = self.count(self.before + self.ending(question)) + NUMBERS
            if fixed + sum(self.tokens_of(i) for i in question["needed"]) <= self.room:
                found.append(question)
            else:
                skipped += 1
        if len(found) < self.job.rows:
            if skipped:
                raise TooShort(f"{self.job.name} has only {len(found)} questions whose documents it can hold")
            raise ValueError(f"{self.job.name}: {len(found)} questions are in the file, {self.job.rows} are wanted")
        return found

    def ending(self, question: dict) -> str:
        """What comes after the last document and a blank line."""
        return self.after.removeprefix("\n\n").replace("{query}", question["query"])

    def render(self, number: int, document: int) -> str:
        return self.document.replace("{i}", str(number)).replace("{document}", self.documents[document])

    def tokens_of(self, document: int) -> int:
        """Tokens of a document with number 7, and of what separates it from the next."""
        if document not in self.document_tokens:
            text = self.render(7, document) + "\n\n"
            self.document_tokens[document] = self.count(text + text) - self.count(text)
        return self.document_tokens[document]

    def candidates(self, rng: Random, question: dict) -> Iterator[int]:
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

    def build(self, index: int, attempt: int) -> Sample:
        question = self.questions[index]
        total, chosen, misses, needed = self.count(self.before + self.ending(question)), [], 0, len(question["needed"])
        for document in self.candidates(self.rng(index, attempt), question):
            tokens = self.tokens_of(document) + self.cost(f"{len(chosen) + 1}:") - self.cost("7:")
            if total + tokens <= self.room:
                chosen.append(document)
                total += tokens
                continue
            misses += 1
            if len(chosen) < needed or misses > MAX_MISSES:
                break
        n = max(needed, self.size(len(chosen)))
        while needed <= n <= len(chosen):
            order = fixed_order(self.job.seed, n)
            documents = [self.render(number, chosen[at]) + "\n\n" for number, at in enumerate(order, 1)]
            text = self.before + "".join(documents) + self.ending(question)
            total = self.count(text)
            if total <= self.room:
                return Sample(text, self.prefix, question["answers"], total, n)
            n -= 1
        raise TooShort(f"{self.job.name} cannot hold the documents of question {index}")
