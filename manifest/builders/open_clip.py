"""open_clip's builders, with a memory."""

from manifest.builders.create_model import create_model as create_model
from manifest.builders.create_model import create_model_and_transforms as create_model_and_transforms
