"""The OpenAI SDK, changed in nothing but its base URL; the gateway tells in headers what it did.

python examples/openai_sdk.py [base URL]
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080/v1", api_key="demo")
model = client.models.list().data[0].id

for question in ("What is the capital of Italy?", "What is Italy's capital?"):
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_tokens=48,
        stop=["\n"],
    )
    answer = raw.parse().choices[0].message.content
    print(f"{raw.headers['x-gateway-decision']:8} {raw.headers['x-gateway-reason']:16} {question} → {answer}")

# Fresh samples where an application wants them: several stored answers to one question, drawn at random ...
client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Name a colour."}],
    max_tokens=8,
    extra_body={"cache": {"variants": 5}},
)
# ... or no reuse at all for this request.
client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "Name a colour."}],
    max_tokens=8,
    extra_headers={"x-gateway-cache": "refresh"},
)
