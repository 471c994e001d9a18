"""Question answering: the documents that answer a question, among others.

Sample i is question i of the file (of those whose documents fit). Documents are added while they fit: those with the
answer, then the data set's distractors (SQuAD: paragraphs of the same article, in random order), then random others.
When a document does not fit, up to a dozen others are tried. If the file is too small, its documents are repeated.
"""

from collections.abc import Iterator
from functools import cache
from random import Random

from sources import Question
from task import Sample, Task, fixed_order
from texts import read_texts

MAX_MISSES = 12
NUMBERS_TOKENS = 8  # that the numbers of the documents with the answer may take


class QuestionAnswering(Task):
    step = 10

    def __init__(self, tokens, job, source):
        super().__init__(tokens, job)
        self.use_template("qa")
        self.after = self.after.removeprefix("\n\n")  # the documents end with it
        self.template = read_texts()["document"]
        self.documents, questions = source
        self.document_tokens = cache(self.count_document)
        self.questions = self.choose_questions(questions)

    def choose_questions(self, questions: list[Question]) -> list[Question]:
        """The first `num_samples` questions whose documents fit. Raises ValueError if there are not enough."""
        chosen = []
        for question in questions:
            total = self.count_fixed(question) + NUMBERS_TOKENS
            total += sum(map(self.document_tokens, question.needed))
            if total <= self.token_budget:
                chosen.append(question)
            if len(chosen) == self.job.num_samples:
                return chosen
        found = f"{len(chosen)} of {len(questions)} questions fit {self.job.length} tokens"
        raise ValueError(f"{self.job.name}: {found}; give --num_samples {len(chosen)} or leave this task out")

    def count_fixed(self, question: Question) -> int:
        """Tokens of a prompt without documents."""
        after = self.after.format(query=question.query)
        return self.tokens.count(self.before + after)

    def render_document(self, number: int, document: int) -> str:
        """A document with its number, and a blank line."""
        text = self.template.format(i=number, document=self.documents[document])
        return text + "\n\n"

    def count_document(self, document: int) -> int:
        """Tokens of a document with number 7."""
        text = self.render_document(7, document)
        return self.tokens.count(text + text) - self.tokens.count(text)

    def candidates(self, rng: Random, question: Question) -> Iterator[int]:
        """Indices of documents, best first; in the end all of them, again and again."""
        given = question.given
        if question.shuffle:
            given = rng.sample(given, len(given))
        yield from question.needed
        yield from given
        used = set(question.needed + given)
        while True:
            order = list(range(len(self.documents)))
            for i in range(len(order)):  # a Fisher-Yates shuffle of which only the part that is used is done
                j = rng.randrange(i, len(order))
                order[i], order[j] = order[j], order[i]
                if order[i] not in used:
                    yield order[i]
            used = set()

    def choose_documents(self, index: int) -> list[int]:
        question = self.questions[index]
        total = self.count_fixed(question)
        chosen = []
        misses = 0
        for document in self.candidates(self.rng(index), question):
            number_tokens = self.tokens.cost(f"{len(chosen) + 1}:") - self.tokens.cost("7:")
            tokens = self.document_tokens(document) + number_tokens
            if total + tokens <= self.token_budget:
                chosen.append(document)
                total += tokens
            else:
                misses += 1
            if misses > MAX_MISSES:
                return chosen

    def draw(self, index):
        question = self.questions[index]
        documents = self.choose_documents(index)

        def render(size):
            text = self.before
            order = fixed_order(self.job.seed, size)
            for number, i in enumerate(order, 1):
                text += self.render_document(number, documents[i])
            return text + self.after.format(query=question.query)

        self.guess = len(documents)
        return Sample(render, self.prefix, question.answers, len(question.needed), len(documents))
