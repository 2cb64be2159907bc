"""Say in a few lines what an answer of the admin API holds. Usage: brief.py documents|snapshot|clients <answer.json."""

import json
import sys


def documents(answer):
    for document in answer["documents"]:
        yield f'{document["state"]}  {document["reason"] or document["key"]}'
        yield f'  revision {document["revision"]}, serving revision {document["serving_revision"]}'


def snapshot(answer):
    for name, group in answer["groups"].items():
        yield f'group {name}: revision {group["revision"]} from {group["source"]}, built at {group["built_at"]}'
        for kind, held in group["types"].items():
            if held["count"]:
                yield f'  {kind:<10} {held["count"]:>3}  version {held["version"]}'


def clients(answer):
    for client in answer["clients"]:
        node = client["node"]
        yield f'{node["id"]} ({node["cluster"]}) {client["variant"]} from {client["address"]}, group {client["group"]}'
        for kind, state in client["types"].items():
            acknowledged = state["acknowledged"]
            has = f'has version {acknowledged["version"]}' if acknowledged else "has acknowledged nothing yet"
            refused = f', refused: {state["refused"]["message"]}' if state["refused"] else ""
            yield f"  {kind:<10} {has}{refused}"


print(*{"documents": documents, "snapshot": snapshot, "clients": clients}[sys.argv[1]](json.load(sys.stdin)), sep="\n")
