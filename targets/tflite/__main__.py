from leafport.cli.export import script
from leafport.targets.tflite import NAME

script(NAME)
