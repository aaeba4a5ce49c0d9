"""Which machine is the primary, and how that changes without a second history.

On a machine: ``units`` (what may start), ``seen`` (is a tree ahead of all that was ever shown),
``witness`` (up to which size the witnesses have cosigned), ``adopt`` (a secondary's tree becomes a
primary's), ``retire`` (a former primary forgets), ``look`` (what the others need to know of it). On
the controller: ``judge`` decides whether a procedure may begin and with which machine,
``procedure`` is its journal.
"""
