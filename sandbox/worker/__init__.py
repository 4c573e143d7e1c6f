"""Worker: the part of the sandbox that runs inside the isolation.

A worker is a warm interpreter that forks a candidate process per program and a referee process for the tests. This
package imports only the standard library, and uses relative imports: the harness loads it as
``crosstok.sandbox.worker``; the worker interpreter loads the same folder as ``worker``, with no other crosstok module
on its path.

    pool (host) --program--> worker ----fork----> referee: tests, expected values, verdict pipe
                <--verdict--        `---fork----> candidate: its code, two pipes to the referee, nothing else

The referee never compiles candidate code, and the candidate never sees a test. Calls and results cross between them as
data (:mod:`~crosstok.sandbox.worker.codec`). The worker itself reads neither: the referee takes the program directly
from the pool's pipe.
"""
