"""`handinger doctor`: what the server can and cannot do on this host, and why."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Annotated

from cyclopts import Parameter

from handinger.cli import output
from handinger.cli.failures import ExitCode
from handinger.cli.options import Options
from handinger.cli.server_side import server_errors


def doctor(*, options: Annotated[Options, Parameter(parse=False)]) -> ExitCode:
    """Say what commands of workers can do on this host, by trying; exit status 1 if nothing."""
    with server_errors():
        from handinger import settings
        from handinger.sandbox import survey

        found = asyncio.run(survey.examine(settings.load()))

    def pretty() -> None:
        from handinger.cli import pretty

        for finding in found.findings:
            told = f"{finding.state:<8}{finding.name}: {finding.detail} {finding.advice}"
            pretty.stdout().print(told.rstrip(), soft_wrap=True, markup=False)

    records = [dataclasses.asdict(finding) for finding in found.findings]
    output.show_records(records, options, pretty=pretty)
    return ExitCode.OK if found.host is not None else ExitCode.FAILED
