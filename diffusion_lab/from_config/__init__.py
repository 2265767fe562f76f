"""From words to objects: what a composed config says, built, checked and decided. Commands run what comes out.

Beside `commands` the only place that sees a cfg.
"""
