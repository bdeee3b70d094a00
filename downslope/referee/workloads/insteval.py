"""insteval: ratings of lecturers by students, as a matrix with most entries missing, factorised; fetched once."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn

from downslope.referee.card import Card
from downslope.referee.data.batches import Batches
from downslope.referee.data.rtables import insteval
from downslope.referee.metrics import mean_squared_error, rmse
from downslope.referee.workload import Workload

CARD = Card(
    name="insteval",
    task="matrix: ratings of lecturers by students, factorised",
    source="insteval",
    metric_name="root mean squared error (grades)",
    goal="min",
    target=1.21,
    steps=900,
    evaluate_every=50,
    description="Matrix factorisation with biases, rank 32, dropout 0.7 (0.14 million parameters), batch 1024",
    data="InstEval (ETH Zurich): 73,421 grades from 1 to 5 by 2,972 students for 1,128 lecturers, 8,000 of them "
    "drawn at random for validation",
    licence="GPL-2 or later (R package lme4); fetched, not shipped",
    target_origin="The mean grade alone gives 1.328. AdamW, NadamW and SGD with Nesterov's momentum, 50 points each, "
    "for three quarters of the budget: the best is SGD with Nesterov's momentum (lr 0.325, momentum "
    "0.95, weight decay 0.000167); the median of ten seeds there, 1.202, is rounded to the easier side; "
    "16, 16 and 17 of the 50 points reach it",
    variants={
        "wide": ("a rank of 128", {"rank": 128}),
        "small-init": ("initial factors of a tenth of the size", {"deviation": 0.01}),
        "small-batch": ("batches of 256", {"size": 256}),
    },
)


class Factors(nn.Module):
    """Grade = mean + bias of the student + bias of the lecturer + product of their factors."""

    def __init__(self, students: int, lecturers: int, mean: float, rank: int, deviation: float) -> None:
        super().__init__()
        self.student_embedding, self.lecturer_embedding = nn.Embedding(students, rank), nn.Embedding(lecturers, rank)
        self.student_bias, self.lecturer_bias = nn.Embedding(students, 1), nn.Embedding(lecturers, 1)
        self.mean = mean
        self.dropout = nn.Dropout(0.7)
        for factors in (self.student_embedding, self.lecturer_embedding):
            nn.init.normal_(factors.weight, std=deviation)
        for bias in (self.student_bias, self.lecturer_bias):
            nn.init.zeros_(bias.weight)

    def forward(self, student: Tensor, lecturer: Tensor) -> Tensor:
        """Numbers of students (B,) and lecturers (B,) to grades (B,)."""
        product = self.dropout(self.student_embedding(student)) * self.dropout(self.lecturer_embedding(lecturer))
        grade: Tensor = (
            self.mean + product.sum(1) + (self.student_bias(student) + self.lecturer_bias(lecturer)).squeeze(1)
        )
        return grade


def workload(rank: int = 32, deviation: float = 0.1, size: int = 1024) -> Workload:
    """The workload; see the module. `deviation` is that of the initial factors, `size` the batch's."""
    columns = [column.numpy() for column in insteval()]
    order = np.random.default_rng(0).permutation(len(columns[0]))
    train, validation = ([torch.from_numpy(c[rows]) for c in columns] for rows in (order[8_000:], order[:8_000]))
    student, lecturer, grade = columns
    sizes = (int(student.max()) + 1, int(lecturer.max()) + 1)
    return CARD.workload(
        model=functools.partial(Factors, *sizes, float(grade[order[8_000:]].mean()), rank, deviation),
        train=Batches(*train, size=size, shuffle=True),
        validation=Batches(*validation, size=8000),
        loss=mean_squared_error,
        metric=rmse,
    )
