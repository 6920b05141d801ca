"""The Kubernetes API as the operator uses it.

- ``access``  where an API server is and how it is spoken to; kubeconfigs and service accounts
- ``client``  a few verbs over aiohttp
- ``objects`` our kinds and tables from round to round, read where they changed
- ``lease``   who of several operators leads
- ``watch``   kopf in a thread of its own, which says when something changed
"""
