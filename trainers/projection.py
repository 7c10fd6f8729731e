"""The projection before any training: where the English teacher's space comes from, and what is left out of it.

The token space of a multilingual encoder is narrow (two random tokens have a cosine near 0.85) and each language sits
at an offset of its own in it. Both hide meaning from MaxSim, and both are linear: subtracting the mean token is a shift
of the last LayerNorm's bias, and erasing the directions that tell languages apart is a matrix that folds into the
bias-free projection. So nothing is added to the model, and at inference nobody names a language. All statistics come
from training text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drdecr.modeling_drdecr import DrDecrModel, DrDecrProcessor

METHODS = ("random", "identity", "pca", "language_neutral")


def language_eraser(tokens: Mapping[str, Tensor], shrinkage: float = 1e-4) -> Tensor:
    """Return the matrix that makes all languages' mean tokens equal while changing tokens least.

    Least-squares concept erasure (Belrose et al. 2023, theorem 4.2) with the language as concept: with total covariance
    S and W = S^(-1/2), the whitened mean offsets span a subspace with orthogonal projector P, and the eraser is
    `I - W^+ P W`. Applied to centred tokens, no linear classifier can tell the languages apart.

    Args:
        tokens: `{language: (tokens, dim)}`, at least two languages; each weighs the same.
        shrinkage: share of the mean variance added to the covariance's diagonal, for few tokens (default 1e-4).

    Returns:
        float64 `(dim, dim)`; multiply from the left: `eraser @ (token - mean)`.

    Raises:
        ValueError: for fewer than two languages.
    """
    if len(tokens) < 2:
        raise ValueError(
            f"Languages can be told apart only where there are two, got {len(tokens)}. Give more languages."
        )
    means, covariance = _moments(tokens)
    dim = covariance.shape[0]
    covariance = covariance + shrinkage * covariance.trace() / dim * torch.eye(dim, dtype=torch.float64)
    variances, directions = torch.linalg.eigh(covariance)
    whiten = directions @ torch.diag(variances.rsqrt()) @ directions.T
    colour = directions @ torch.diag(variances.sqrt()) @ directions.T
    offsets = whiten @ (means - means.mean(dim=0)).T  # (dim, languages)
    basis, sizes, _ = torch.linalg.svd(offsets, full_matrices=False)
    basis = basis[:, sizes > 1e-10 * sizes.max()]
    return torch.eye(dim, dtype=torch.float64) - colour @ basis @ basis.T @ whiten


def principal_projection(tokens: Mapping[str, Tensor], embedding_dim: int, eraser: Tensor | None = None) -> Tensor:
    """Return the projection on the directions in which tokens differ most, after erasing.

    Args:
        tokens: `{language: (tokens, dim)}`; each language weighs the same.
        embedding_dim: how many directions are kept.
        eraser: `(dim, dim)` from `language_eraser`, applied first.

    Returns:
        float64 `(embedding_dim, dim)`: orthonormal rows, times the eraser.

    Raises:
        ValueError: if more directions are asked for than there are.
    """
    _, covariance = _moments(tokens)
    dim = covariance.shape[0]
    if not 1 <= embedding_dim <= dim:
        raise ValueError(f"embedding_dim: expected at most the encoder's {dim} dimensions, got {embedding_dim}.")
    eraser = torch.eye(dim, dtype=torch.float64) if eraser is None else eraser
    _, directions = torch.linalg.eigh(eraser @ covariance @ eraser.T)
    return directions[:, -embedding_dim:].flip(1).T @ eraser


@torch.no_grad()
def initialise_projection(
    model: DrDecrModel,
    processor: DrDecrProcessor,
    texts: Mapping[str, list[str]],
    method: str = "language_neutral",
    batch_size: int = 64,
) -> None:
    """Set a model's projection from its own tokens of training text, in place.

    `pca` subtracts the common mean token and keeps the principal directions; `language_neutral` erases the directions
    that tell the languages apart first; `random` leaves the projection as it was drawn; `identity` makes none, so that
    the encoder's own tokens are compared.

    Args:
        model: its last LayerNorm takes the mean into its bias, its `linear.weight` the rest.
        processor: tokenises English texts as documents and queries, the others as queries.
        texts: training text by language, `en` among them.
        method: `"random"`, `"identity"`, `"pca"` or `"language_neutral"` (default).
        batch_size: texts a forward pass.

    Raises:
        ValueError: for an unknown method, or an encoder whose last layer is not a LayerNorm with a bias.
    """
    if method not in METHODS:
        raise ValueError(f"projection: expected one of {', '.join(METHODS)}, got {method!r}.")
    if method == "random":
        return
    if method == "identity":
        model.linear.weight.copy_(_identity(*model.linear.weight.shape))
        return
    if not texts.get("en") or not all(texts.values()):
        raise ValueError(
            f"projection: {method} learns from text of every language, 'en' among them, got "
            f"{', '.join(texts) or 'none'}. Give `projection_text`, or use `projection: random`."
        )
    tokens = {code: hidden_tokens(model, processor.process_queries, rows, batch_size) for code, rows in texts.items()}
    # English is read in both slots; the document slot is a "language" of its own, so that the two meet.
    tokens["en, documents"] = hidden_tokens(model, processor.process_documents, texts["en"], batch_size)
    mean = _moments(tokens)[0].mean(dim=0)
    eraser = language_eraser(tokens) if method == "language_neutral" else None
    weight = principal_projection(tokens, model.config.embedding_dim, eraser)
    norm = last_norm(model, processor)
    norm.bias.sub_(mean.to(norm.bias))
    model.linear.weight.copy_(weight.to(model.linear.weight))


@torch.no_grad()
def map_to_teacher(model: DrDecrModel, teacher: Any, texts: Sequence[str], batch_size: int = 64) -> float:
    """Turn a student's tokens into its teacher's space, by a map in closed form that becomes part of its projection.

    Both read English texts in both slots, each with its own processor; tokens over the same characters belong together. Of
    all orthogonal maps the one of Procrustes brings the pairs closest (Schönemann 1966): with `sum t s^T = U S V^T` over
    the pairs it is `U V^T`. The student then has the teacher's width, and its own scores are as before, unless the teacher's
    width is the smaller one. Training goes on from there: the map is trained with the projection that it is part of.

    Args:
        model: the student, in place; without an adapter.
        teacher: with a processor.
        texts: in English; the English side of parallel text.
        batch_size: texts a forward pass (default 64).

    Returns:
        The mean cosine of the pairs behind the map.

    Raises:
        ValueError: for texts in which the two share no tokens.
    """
    model.eval()
    products = torch.zeros(teacher.config.embedding_dim, model.config.embedding_dim, dtype=torch.float64)
    num_pairs = 0
    for start in range(0, len(texts), batch_size):
        batch = list(texts[start : start + batch_size])
        for slot in ("query", "document"):
            ours, theirs = (_tokens_and_spans(one, batch, slot) for one in (model, teacher))
            for (student, spans), (target, target_spans) in zip(ours, theirs, strict=True):
                rows, columns = _pair_spans(spans, target_spans)
                products += target[columns].T @ student[rows]
                num_pairs += len(rows)
    if not num_pairs:
        raise ValueError(
            "map_to_teacher: expected English texts with tokens that both models read, got none. Give others."
        )
    left, sizes, right = torch.linalg.svd(products, full_matrices=False)
    weight = left @ right @ model.linear.weight.double().cpu()
    old = model.linear.weight
    model.linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=old.device, dtype=old.dtype)
    model.linear.weight.copy_(weight.to(old))
    model.config.embedding_dim = weight.shape[0]
    return float(sizes.sum()) / num_pairs


def _tokens_and_spans(model: Any, texts: list[str], slot: str) -> list[tuple[Tensor, np.ndarray]]:
    """Return for each text float64 tokens `(tokens, dim)` and the characters `(tokens, 2)` that they stand for."""
    process = model.processor.process_queries if slot == "query" else model.processor.process_documents
    find_spans = model.processor.query_spans if slot == "query" else model.processor.document_spans
    batch = {name: tensor.to(model.device) for name, tensor in process(texts).items()}
    embeddings = model(**batch).embeddings.double().cpu()
    read = []
    for tokens, spans in zip(embeddings, find_spans(texts), strict=True):
        places = [place for place, span in enumerate(spans) if span is not None]
        covered = np.array([spans[place] for place in places], dtype=np.int64).reshape(-1, 2)
        read.append((tokens[places], covered))
    return read


def _pair_spans(spans: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair each span with the other one that it shares most characters with; those that share none have no partner."""
    if not len(spans) or not len(others):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    shared = np.minimum(spans[:, None, 1], others[None, :, 1]) - np.maximum(spans[:, None, 0], others[None, :, 0])
    rows = np.flatnonzero(shared.max(axis=1) > 0)
    return rows, shared.argmax(axis=1)[rows]


@torch.no_grad()
def hidden_tokens(
    model: DrDecrModel, process: Callable[[list[str]], Any], texts: list[str], batch_size: int = 64
) -> Tensor:
    """Return the encoder's last hidden states of all tokens that stand for text: `(tokens, hidden_size)`."""
    model.eval()
    parts = []
    for start in range(0, len(texts), batch_size):
        batch = {name: tensor.to(model.device) for name, tensor in process(texts[start : start + batch_size]).items()}
        parts.append(model(**batch).last_hidden_state[batch["text_mask"]].float().cpu())
    return torch.cat(parts)


def last_norm(model: DrDecrModel, processor: DrDecrProcessor) -> nn.LayerNorm:
    """Find the LayerNorm that makes the encoder's output, by what it puts out.

    Raises:
        ValueError: if there is none with a bias.
    """
    last: list[tuple[nn.Module, Tensor]] = []
    norms = [module for module in model.encoder.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_hook(lambda module, _, output: last.append((module, output))) for norm in norms]
    try:
        output = model(**processor.process_queries(["a"]).to(model.device)).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    module = last[-1][0] if last else None
    if not isinstance(module, nn.LayerNorm) or module.bias is None or not torch.equal(last[-1][1], output):
        raise ValueError(
            f"{type(model.encoder).__name__} does not end in a LayerNorm with a bias, so the mean token cannot be "
            "taken out of it. Use `projection: random`."
        )
    return module


def _identity(embedding_dim: int, hidden_size: int) -> Tensor:
    if embedding_dim != hidden_size:
        raise ValueError(
            f"projection: identity needs embedding_dim {hidden_size}, the encoder's width, got {embedding_dim}."
        )
    return torch.eye(hidden_size)


def _moments(tokens: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each language's mean `(languages, dim)` and the covariance around their mean, languages weighed alike."""
    rows = [matrix.double() for matrix in tokens.values()]
    means = torch.stack([matrix.mean(dim=0) for matrix in rows])
    centre = means.mean(dim=0)
    covariances = [(matrix - centre).T @ (matrix - centre) / len(matrix) for matrix in rows]
    return means, torch.stack(covariances).mean(dim=0)
