"""Composing, checking and building configs. The commands run the results.

Only this package and `commands` see a cfg.
"""

import logging

logging.getLogger("hydra.utils").addHandler(logging.NullHandler())  # get_object logs what it raises
