from hutch.api import shapes
