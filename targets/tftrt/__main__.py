from leafport.cli.export import script
from leafport.targets.tftrt import NAME

script(NAME)
