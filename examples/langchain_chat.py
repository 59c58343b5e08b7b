"""LangChain through the gateway: again only the base URL changes.

pip install langchain-openai
python examples/langchain_chat.py [base URL]
"""

import sys

from langchain_openai import ChatOpenAI
from openai import OpenAI

base_url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1"
model = OpenAI(base_url=base_url, api_key="demo").models.list().data[0].id
chat = ChatOpenAI(model=model, base_url=base_url, api_key="demo", temperature=0, max_tokens=48, stop=["\n"])

for question in ("What is the capital of Spain?", "What is Spain's capital?"):
    answer = chat.invoke(question, extra_body={"cache": {"ttl": 600}})
    print(f"{question} → {answer.content.strip()}")
