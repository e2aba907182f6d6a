from leafport.cli.export import script
from leafport.targets.coreml import NAME

script(NAME)
