"""A model on an OpenAI-compatible server (hosted, or vLLM or SGLang), with the engines' interface.

The server receives text and tokenises it with its own BOS.
"""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote, urlsplit

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

    The key and a `user:password@` in base_url are sent only to this server, and are in no result or message.
    """

    name = "openai"

    def __init__(self, base_url: str, model: str, api_key: str | None, tokenizer=None, threads: int = 4):
        self.name_or_path = model
        self.oom_retries = []
        address = urlsplit(base_url)
        login, _, host = address.netloc.rpartition("@")
        self.base_url = f"{address.scheme}://{host}{address.path.rstrip('/')}"
        if address.scheme not in ("http", "https") or not host or address.query:
            raise ValueError(f"{self.base_url}: give an address such as http://localhost:8000/v1")
        self.api_key = (api_key or "").strip()
        user, _, password = login.partition(":")
        self.secrets = [secret for secret in (login, password, self.api_key) if secret]
        self.tokenizer = tokenizer
        self.batch_size = threads
        self.chat = None  # whether the server only has chat completions; unknown before the first request
        self.model_info = dict.fromkeys(KEYS) | {"method": "hosted"}
        self.fingerprint = f"{model}@{self.base_url}"
        self.session = requests.Session()
        for scheme in ("http://", "https://"):
            self.session.mount(scheme, HTTPAdapter(pool_maxsize=threads, max_retries=RETRIES))
        if self.api_key:
            self.session.headers["Authorization"] = f"Bearer {self.api_key}"
            self.session.auth = lambda request: request  # or an entry of ~/.netrc would replace the header
        if login:
            self.session.auth = (unquote(user), unquote(password))

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
            answers.append(self.read_answer(reply))
        return answers

    def read_answer(self, reply) -> str:
        """The text of a reply, whose tokens are counted. Raises ValueError if it is not the JSON of an answer."""
        try:
            choice = reply["choices"][0]
            text = choice["message"]["content"] if self.chat else choice["text"]
            text = "" if text is None else text
            usage = reply.get("usage") or {}
            self.prefilled_tokens += int(usage.get("prompt_tokens") or 0)
            self.generated_tokens += int(usage.get("completion_tokens") or 0)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError):
            text = None
        if not isinstance(text, str):
            raise ValueError(f"{self.base_url}: the server sent no text of an answer: {self.one_line(reply)}")
        return text

    def describe(self, *packages: str) -> dict:
        record = super().describe(*packages)
        return record | {"command": self.mask(record["command"])}

    def mask(self, text: str) -> str:
        """A text with *** in place of the key and the password."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def one_line(self, message) -> str:
        return " ".join(self.mask(str(message)).split())[:300]

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

    def post(self, path: str, body: dict) -> tuple:
        """(200, the JSON reply) or (another status, the server's message in one line)."""
        url = f"{self.base_url}/{path}"
        try:
            response = self.session.post(url, json=body, timeout=TIMEOUT_SECONDS, allow_redirects=False)
            if response.status_code == 200:
                return 200, response.json()
        except (requests.RequestException, RecursionError) as error:
            return 0, self.one_line(f"no answer ({error})")
        message = response.text
        if response.is_redirect:  # another host must not get the key
            message = f"redirects to {response.headers['Location']}; give that address if it is the server's"
        return response.status_code, self.one_line(message)
