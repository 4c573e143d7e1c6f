"""What runs inside the sandbox: a warm interpreter, and per program a candidate process and a referee process.

Only the standard library is imported here, and only relative imports are used: the harness loads these modules as
``crosstok.sandbox.worker``, the worker interpreter loads the same folder under the name ``worker`` with nothing else of
ours on its path.

    pool (host) --program--> worker ----fork----> referee R: tests, expected values, the verdict pipe
                <--verdict--        `---fork----> candidate C: the candidate's code, two pipes to R, nothing else

R never compiles candidate code and C never sees a test. Calls and answers cross between them as data
(:mod:`~crosstok.sandbox.worker.codec`). The worker itself reads neither: R takes the program straight from the pool's
pipe.
"""
