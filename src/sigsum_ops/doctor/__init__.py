"""What is wrong with a site, why, and what to do: ``sigsum-ops doctor``. Reads only.

Each machine tells what it is (``examine``), the controller asks the log as its users do (``ask``),
and what all of that means is decided in one place (``judge``).
"""
