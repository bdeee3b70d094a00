"""The arithmetic of sharded parameters that needs no second process."""

import math
from types import SimpleNamespace

import pytest
import torch

from downslope._engine.exchange import _buckets, _Form, _lengths, _owners, _Packet, _Reader
from downslope._engine.sharded import Layout, total


def items(*shapes):
    return [SimpleNamespace(layout=Layout(None, (), shape)) for shape in shapes]


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("n", [0, 1, 2, 5, 6, 13])
def test_rows_are_cut_as_torch_cuts_them(n, parts):
    chunks = [len(chunk) for chunk in torch.arange(n).chunk(parts)] if n else []
    assert _lengths(n, parts) == chunks + [0] * (parts - len(chunks))


def test_the_dearest_tensors_are_spread_over_the_processes():
    owners = _owners(items((4, 4), (64, 64), (4, 4), (64, 64), (48, 48), (32, 32)), 2)
    assert owners[1] != owners[3]
    assert owners[4] != owners[5]


def test_every_tensor_is_in_one_bucket_and_no_bucket_is_too_large():
    members = items((10,), (30,), (100,), (10,), (10,))
    buckets = list(_buckets(members, 40))
    assert [item for bucket in buckets for item in bucket] == members
    assert [sum(math.prod(item.layout.shape) for item in bucket) for bucket in buckets] == [40, 100, 20]


def test_packets_hold_tensors_of_any_dtype_shape_and_stride():
    tensors = [
        torch.arange(6.0).view(2, 3).T,
        torch.tensor([True, False, True]),
        torch.empty(0, 4),
        torch.tensor(2.5, dtype=torch.float64),
        torch.arange(12).view(3, 4)[:, 1],
        torch.ones(3, dtype=torch.bfloat16)[1:2],
        torch.arange(12, dtype=torch.float64).view(4, 3)[:1, :1].flatten(),
    ]
    packet = _Packet()
    for tensor in tensors:
        packet.add(tensor)
    reader = _Reader(torch.cat(packet.parts))
    assert len(reader.buffer) == packet.size
    for tensor in tensors:
        assert torch.equal(reader.take(tensor.shape, tensor.dtype), tensor)
    assert reader.at_end


def test_pieces_of_a_form_are_what_is_cut():
    whole = torch.arange(35.0).view(5, 7)
    for axis in (0, 1, None):
        form = _Form((5, 7), axis, torch.float32)
        assert [tuple(piece.shape) for piece in form.cut(whole, 3)] == [form.piece(rank, 3) for rank in range(3)]


def test_a_nan_is_the_largest_wherever_it_stands():
    values = [{"largest": 1.0, "sum": 1.0}, {"largest": math.nan, "sum": 2.0}, {"largest": 2.0, "sum": 3.0}]
    for order in (values, values[::-1]):
        found = total([(None, each) for each in order], {"largest": "max"})
        assert math.isnan(found["largest"])
        assert found["sum"] == 6.0
