"""A model behind an OpenAI-compatible server (hosted, or a vLLM or SGLang server), with the engines' interface.

The server receives text and tokenises it with its own BOS.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import requests

RETRY_SECONDS = (1, 2, 4, 8, 16)  # waits before another try when the server is busy or cannot be reached
TIMEOUT_SECONDS = 3600


class Endpoint:
    """base_url: up to and including /v1.  model: the server's name for it.  threads: requests at a time.

    tokenizer: turns prompts of token ids into text; not needed for prompts that are text.
    prefilled_tokens, generated_tokens: as far as the server reports them.
    """

    name = "openai"
    attention = dtype = config = window = None

    def __init__(self, base_url: str, model: str, api_key: str | None, tokenizer=None, threads: int = 4):
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.api_key = api_key
        self.tokenizer = tokenizer
        self.batch_size = threads
        self.chat = None  # whether the server only has chat completions; unknown before the first request
        self.prefilled_tokens = 0
        self.generated_tokens = 0
        self.oom_retries = []

    def load(self):
        pass

    def plan(self, prompts: list, max_new_tokens: int, ranks: int = 1) -> list[list[int]]:
        """As the engines' `plan`: common beginnings stand together, for the server's prefix cache."""
        order = sorted(range(len(prompts)), key=lambda i: prompts[i])
        return [order[len(order) * rank // ranks : len(order) * (rank + 1) // ranks] for rank in range(ranks)]

    def batches(self, order: list[int], prompts: list, max_new_tokens: int) -> list[list[int]]:
        return [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

    def generate(self, prompts: list, max_new_tokens: int, stop_strings=()) -> list[str]:
        """The text of each answer, at temperature 0. prompts: text or token ids.

        Raises ValueError if the server refuses a request or cannot be reached.
        """
        texts = [self.to_text(prompt) for prompt in prompts]
        first = []
        if self.chat is None:  # the first request finds out which interface the server has
            first = [self.ask(texts[0], max_new_tokens, stop_strings)]
        with ThreadPoolExecutor(self.batch_size) as pool:
            requests = [pool.submit(self.ask, text, max_new_tokens, stop_strings) for text in texts[len(first) :]]
            replies = first + [request.result() for request in requests]
        answers = []
        for reply in replies:
            usage = reply.get("usage") or {}
            self.prefilled_tokens += usage.get("prompt_tokens") or 0
            self.generated_tokens += usage.get("completion_tokens") or 0
            choice = reply["choices"][0]
            answers.append((choice["message"]["content"] if self.chat else choice["text"]) or "")
        return answers

    def to_text(self, prompt) -> str:
        return prompt if isinstance(prompt, str) else self.tokenizer.decode(prompt, skip_special_tokens=True)

    def ask(self, text: str, max_new_tokens: int, stop_strings) -> dict:
        """The reply of /completions or, where the server only has chats, of /chat/completions to a user's message."""
        request = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0}
        if stop_strings:
            request["stop"] = list(stop_strings)
        if not self.chat:
            status, reply = self.post("completions", request | {"prompt": text})
            if status == 200:
                self.chat = False
                return reply
            if self.chat is False or status not in (400, 404, 405):
                raise ValueError(f"{self.base_url}/completions: {status} {reply}")
        status, reply = self.post("chat/completions", request | {"messages": [{"role": "user", "content": text}]})
        if status != 200:
            raise ValueError(f"{self.base_url}/chat/completions: {status} {reply}")
        self.chat = True
        return reply

    def post(self, path: str, body: dict) -> tuple[int, dict | str]:
        """(200, the reply) or (another status, the server's message in one line)."""
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        for wait in (*RETRY_SECONDS, None):
            try:
                url = f"{self.base_url}/{path}"
                response = requests.post(url, json=body, headers=headers, timeout=TIMEOUT_SECONDS)
                if response.ok:
                    return 200, response.json()
                status, message = response.status_code, " ".join(response.text.split())[:300]
                if status != 429 and status < 500:
                    return status, message
            except requests.RequestException as error:
                status, message = 0, f"no answer ({error})"
            if wait is not None:
                time.sleep(wait)
        return status, message
