"""The three forms of our configuration as an Alertmanager would finally load them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.rules.routes.surroundings import STOCK, helm_merge, operator_translate

from gpuheal_rules.routes.alertmanager import AlertmanagerParams, own_config
from gpuheal_rules.routes.operatorconfig import TOKEN_SECRET, alertmanager_config, inhibition, values

FORMS = ("own", "values", "object")
PREFIX = {"own": "", "values": "", "object": "gpuheal/gpuheal/"}


def final_config(form: str, params: AlertmanagerParams, token: Path) -> dict[str, Any]:
    """The configuration of that form in its surroundings; `token` is the file with the responder's token."""
    params = replace(params, bearer_token_file=str(token))
    if form == "own":
        return own_config(params)
    if form == "values":
        return helm_merge(STOCK, values(params)["alertmanager"]["config"])
    stock = {**STOCK, "inhibit_rules": inhibition()}
    # A site on objects tells its people by routes of its own; ours fall through to them.
    people = {"receiver": params.people_receiver, "matchers": ['fault!=""', 'alertname!="GPUHealWatchdog"']}
    people |= {"group_wait": "0s", "group_interval": "1s"}
    stock["route"] = {**STOCK["route"], "routes": [*STOCK["route"]["routes"], people]}
    stock["receivers"] = [*STOCK["receivers"], {"name": params.people_receiver, **params.people_config}]
    return operator_translate(alertmanager_config(params), stock, {TOKEN_SECRET: token})
