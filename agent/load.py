"""How soon this node could answer: for its own router, and for its neighbours."""

from agent.catalog import Catalog
from agent.local import LocalModel
from agent.router import Place
from contract.presence import MAX_LISTED, Load
from contract.requests import Request


def place_of(node: str, models: Catalog, request: Request) -> Place:
    """This node, as far as a request's model is concerned. Without measured speeds while its engine starts.

    Raises:
        Refused: the model or adapter is not here.
    """
    local = models.choose(request)
    ready = local.ready if local else None
    if local is None or ready is None:
        return Place(node, 0.0, 0.0, 0.0, local.model.base.trained_context_tokens if local else 0)
    return Place(node, 1000 * local.answering.wait_s, ready.prefill_tok_s, ready.decode_tok_s, ready.context_tokens)


def load_of(models: Catalog, now_ms: int) -> Load | None:
    """What neighbours are told; None while nothing should be handed to this node."""
    default = models.default
    ready = default.ready if default else None
    if default is None or ready is None or models.draining or default.model.task != "generate":
        return None
    return Load(
        ts=now_ms,
        wait_ms=round(1000 * default.answering.wait_s),
        prefill_tok_s=round(ready.prefill_tok_s, 1),
        decode_tok_s=round(ready.decode_tok_s, 1),
        context_tokens=ready.context_tokens,
        models=[local.model.label for local in models.models if _generates(local)][:MAX_LISTED],
        adapters=[f"{one.name}@{one.version}" for one in models.adapters.cards(default.model.sha256)][:MAX_LISTED],
    )


def _generates(local: LocalModel) -> bool:
    return local.model.task == "generate" and not local.problem
