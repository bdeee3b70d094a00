"""The manifest: which parameter got which rule, and why, with its effective hyperparameters and state."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from downslope._core.plan import Node, Route, describe
from downslope._core.roles import ParamInfo
from downslope._engine.sharded import local, share
from downslope._engine.storage import Place, in_words

__all__ = ["Manifest", "Row", "row"]


@dataclass(frozen=True)
class Row:
    """What happens to one parameter; of a sharded one, `state_bytes` are those of this process."""

    parameter: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    why: str
    rule: str
    group: int
    lr: float
    weight_decay: float
    state_bytes: int
    storage: str
    executor: str


def row(
    plan: Node,
    route: Route,
    group_index: int,
    index: int,
    group: dict[str, Any],
    p: Tensor,
    info: ParamInfo,
    state: Mapping[str, Any],
    found: Iterable[Place],
    executor: str,
) -> Row:
    """The row of one parameter."""
    decays = (
        node.hyper["weight_decay"] for node in plan.on(route) if "weight_decay" in node.hyper and node.takes(info)
    )
    return Row(
        parameter=info.name or f"group {group_index}, parameter {index}",
        shape=tuple(p.shape),
        dtype=str(p.dtype).removeprefix("torch."),
        role=info.role,
        why=info.why,
        rule=describe(plan, route, p, info),
        group=group_index,
        lr=float(group["lr"]),
        weight_decay=sum(float(group[key]) for key in decays),
        state_bytes=sum(v.numel() * v.element_size() for v in map(local, state.values()) if isinstance(v, Tensor)),
        storage=in_words(found, state, p.dtype),
        executor=f"{executor}{share(p)}",
    )


@dataclass(frozen=True)
class Manifest:
    """One row a parameter; prints as a table."""

    method: str
    rows: tuple[Row, ...]

    @property
    def state_bytes(self) -> int:
        """Bytes of state of all parameters."""
        return sum(row.state_bytes for row in self.rows)

    def to_json(self) -> str:
        """The manifest as JSON."""
        return json.dumps({"method": self.method, "rows": [asdict(row) for row in self.rows]})

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        head = (
            "parameter",
            "shape",
            "dtype",
            "role",
            "because",
            "rule",
            "lr",
            "weight decay",
            "state bytes",
            "storage",
            "executor",
        )
        table = [head]
        for r in self.rows:
            shape = "x".join(map(str, r.shape)) or "scalar"
            numbers = (f"{r.lr:g}", f"{r.weight_decay:g}", str(r.state_bytes))
            table.append((r.parameter, shape, r.dtype, r.role, r.why, r.rule, *numbers, r.storage, r.executor))
        widths = [max(len(row[i]) for row in table) for i in range(len(head))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        return "\n".join([f"{self.method}: {len(self.rows)} parameters, {self.state_bytes} bytes of state", *lines])
