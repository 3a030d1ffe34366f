"""Jobs as directories. A job's state is the directory it lies in; every transition is one rename.

SPOOL/lock                flock: one daemon a spool
SPOOL/tmp/draft-*/        being copied in, worthless after a crash
SPOOL/<state>/<id>/       job.json  in/  attempts.jsonl  out/  [facts.json  failure.json  cancel  retired]
"""

from daemon.spool.draft import Draft
from daemon.spool.spool import Recovery, Spool
from daemon.spool.stored_job import Claim, StoredJob

__all__ = ["Claim", "Draft", "Recovery", "Spool", "StoredJob"]
