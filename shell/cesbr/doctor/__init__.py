"""The checks of ``cesbr doctor``, and the emergency sheet.

`finding` contains the result of a check and the time limit, `settings`, `repository`, `machine` and
`services` the checks, `examination` the order in which they run, and `sheet` the emergency sheet.
"""
