"""In-context caching: past answers of a large model as examples that let a small model take over.

Pure and synchronous: which answers become examples, which of them go into a prompt, who answers, whether the
answer will do. After IC-Cache (arXiv 2501.12689). It must never let an example cross tenants, and never call
a model itself.
"""
