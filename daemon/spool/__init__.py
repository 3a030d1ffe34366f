"""Jobs as directories. A job's state is the directory it lies in; every transition is one rename.

SPOOL/lock                flock: one daemon a spool
SPOOL/tmp/draft-*/        being copied in, worthless after a crash
SPOOL/<state>/<id>/       job.json  in/  attempts.jsonl  out/  [facts.json  failure.json  cancel  retired]
"""

from daemon.spool.entry import Claim, Entry
from daemon.spool.store import Spool

__all__ = ["Claim", "Entry", "Spool"]
