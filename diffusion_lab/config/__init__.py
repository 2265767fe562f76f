"""From a composed config to objects: built, checked and decided. Commands run the result.

Beside `commands` the only place that sees a cfg.
"""

import logging

logging.getLogger("hydra.utils").addHandler(logging.NullHandler())  # get_object logs what it raises
