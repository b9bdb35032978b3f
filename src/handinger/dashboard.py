"""What a person sees in a browser. For now: at a worker's `url`, how to look at the worker.

The page says nothing about the worker, not even whether there is one: it asks for no key.
"""

import html

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from handinger import ids, workers
from handinger.settings import Settings

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{worker_id} - Handinger</title>
<style>body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 45rem; margin: 3rem auto; }}
pre {{ overflow-x: auto; background: #8881; padding: 1rem; }}</style>
<h1>Worker {worker_id}</h1>
<p>This version of Handinger has no pages for workers yet. With an API key of its organization you
can read the worker on the command line,</p>
<pre>export HANDINGER_BASE_URL={base_url}
export HANDINGER_API_KEY=...
handinger workers retrieve {worker_id}
handinger workers stream-updates {worker_id}</pre>
<p>or over HTTP:</p>
<pre>curl {base_url}/api/workers/{worker_id} -H "Authorization: Bearer $HANDINGER_API_KEY"</pre>
</html>
"""

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def make_router(settings: Settings) -> APIRouter:
    """The pages; no part of the API."""
    router = APIRouter(include_in_schema=False)

    @router.get("/workers/{worker_id}")
    async def _worker(worker_id: str) -> Response:
        if not ids.is_valid("wrk", worker_id):
            raise workers.not_found(worker_id)
        page = _PAGE.format(worker_id=worker_id, base_url=html.escape(settings.base_url))
        return HTMLResponse(page, headers=_HEADERS)

    return router
