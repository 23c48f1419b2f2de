from tests.contract.conftest import image

__all__ = ["image"]
