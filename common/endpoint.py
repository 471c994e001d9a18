"""A model on an OpenAI-compatible server (hosted, or vLLM or SGLang), with the engines' interface.

The server receives text and tokenises it with its own BOS.
"""

from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from checkpoint import KEYS
from engine import Engine

# waits 1, 2, 4, 8 and 16 seconds when the server is busy or cannot be reached
RETRIES = Retry(
    5, backoff_factor=1, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None, raise_on_status=False
)
TIMEOUT_SECONDS = 3600


class Endpoint(Engine):
    """base_url: up to and including /v1.  model: the server's name for it.  threads: requests at a time.

    tokenizer: turns prompts of token ids into text; not needed for prompts that are text.
    prefilled_tokens, generated_tokens: as far as the server reports them.
    """

    name = "openai"

    def __init__(self, base_url: str, model: str, api_key: str | None, tokenizer=None, threads: int = 4):
        self.name_or_path = model
        self.oom_retries = []
        self.base_url = base_url.rstrip("/")
        self.api_key = api_key
        self.tokenizer = tokenizer
        self.batch_size = threads
        self.chat = None  # whether the server only has chat completions; unknown before the first request
        self.model_info = dict.fromkeys(KEYS) | {"method": "hosted"}
        self.fingerprint = f"{model}@{self.base_url}"
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=threads, max_retries=RETRIES))
        if api_key:
            self.session.headers["Authorization"] = f"Bearer {api_key}"

    def generate(self, prompts: list, max_new_tokens: int, stop_strings=()) -> list[str]:
        """The text of each answer, at temperature 0. prompts: text or token ids.

        Raises ValueError if the server refuses a request or cannot be reached.
        """
        request = {"model": self.name_or_path, "max_tokens": max_new_tokens, "temperature": 0}
        if stop_strings:
            request["stop"] = list(stop_strings)
        texts = [self.to_text(prompt) for prompt in prompts]
        replies = []
        if self.chat is None:  # the first request finds out which interface the server has
            replies.append(self.ask(request, texts.pop(0)))
        with ThreadPoolExecutor(self.batch_size) as pool:
            replies += pool.map(lambda text: self.ask(request, text), texts)
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

    def ask(self, request: dict, text: str) -> dict:
        """The reply of /completions or, if the server only has chats, of /chat/completions to a user's message."""
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
        try:
            response = self.session.post(f"{self.base_url}/{path}", json=body, timeout=TIMEOUT_SECONDS)
            if response.ok:
                return 200, response.json()
            return response.status_code, " ".join(response.text.split())[:300]
        except requests.RequestException as error:
            return 0, f"no answer ({error})"
