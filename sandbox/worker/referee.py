"""Referee process: runs the tests; the only process that may write a verdict.

It holds the tests, the expected values and the verdict pipe, and never compiles candidate code. The tests see the
candidate's functions as proxies, which send arguments as data and rebuild results from data; no method of the candidate
ever takes part in a comparison. A pass requires positive evidence: the tests ran to their end, made at least one call
(exactly as many as the reference solution, if known), and the protocol was never violated.
"""

import builtins
import contextlib
import importlib
import random
import sys
from opcode import opmap
from os import close
from resource import RUSAGE_SELF, getrusage
from socket import recv_fds, socket
from types import CodeType
from typing import Any, NoReturn

from .channel import BadFrame, Channel, ChannelClosed, read_frame, write_frame
from .codec import Data, Decoder, Encoder, Malformed, Uncodable
from .exchange import ANSWER, Exchange, OutOfTurn
from .remote import CandidateDied, CandidateFailed, RemoteClass, RemoteIterator, RemoteObject

_NEVER_RAISED = (StopIteration, StopAsyncIteration, GeneratorExit)  # a test would interpret these as the end of a loop
_MALFORMED = "malformed answer"
_ALIASES = {"np": "numpy", "numpy": "numpy", "pd": "pandas", "pandas": "pandas", "scipy": "scipy"}
"""Packages by the names under which tests use them."""
_MAX_RSS_KILOBYTES = 200 << 10
"""Peak memory above which a referee process is replaced."""
_NOTE_CHARACTERS = 300  # of at most 12 bytes in JSON: below PIPE_BUF


class InvalidTests(Exception):
    """The trusted part of a program fails, independent of the candidate."""


class Referee:
    """Runs the tests of one program and translates their use of the candidate into requests."""

    def __init__(self, channel: Channel, *, numpy: bool) -> None:
        self._exchange = Exchange(channel, self._serve)
        self._numpy = numpy
        self._functions: list[Any] = []
        self._names: dict[str, Any] = {}
        self._setup_classes: dict[str, type] = {}
        self._exceptions: dict[str, type] = {}
        self.calls = 0
        self.is_reusable = False
        """Whether this process may run the tests of another program."""
        self.broken = ""
        """Why the exchange with the candidate ended; once set, a pass is impossible."""

    # --- the program ----------------------------------------------------------------------------------------------

    def judge(self, program: dict[str, Any], setup: CodeType, tests: CodeType, entry_point: CodeType) -> None:
        """Run all tests. Returns only if they pass; otherwise their exception propagates.

        Raises InvalidTests if the setup fails by itself.
        """
        names = self._names = {"__name__": "tests", "__builtins__": builtins}
        self.is_reusable = leaves_state_unchanged(setup) and leaves_state_unchanged(tests)
        try:
            exec(setup, names)  # noqa: S102  (trusted code)
        except BaseException as raised:
            raise InvalidTests(f"setup fails: {type(raised).__name__}: {raised}") from raised
        self._setup_classes = {name: thing for name, thing in names.items() if isinstance(thing, type)}
        self.ask("load", program["setup"], program.pop("candidate"))
        self._import_names(tests, entry_point)
        exec(tests, names)  # noqa: S102  (trusted code)
        # The form of HumanEval. Some tests define check and call it themselves.
        if not self.calls and callable(names.get("check")):
            names["check"](eval(entry_point, names))  # noqa: S307  (trusted, such as Solution().add)

    def judge_guarded(self, program: dict[str, Any]) -> tuple[str, str]:
        """Have the candidate's process run the tests, and return status and error from its transcript."""
        parts = (program["setup"], program["candidate"], program["tests"], program["entry_point"])
        status, error, self.calls, suspicious = self.ask("guard", *parts)
        if status not in ("passed", "failed", "error", "memory") or type(self.calls) is not int:
            return "tampered", "malformed transcript"
        if suspicious:
            return "tampered", f"the candidate used {', '.join(sorted(set(map(str, suspicious))))}"
        return status, str(error)

    def _import_names(self, tests: CodeType, entry_point: CodeType) -> None:
        """Fetch from the candidate the names that the tests use and neither they nor the setup define.

        Names of modules always resolve to the referee's own modules: tests that rely on a solution's ``import math``
        must not compare by means of a class that the candidate calls ``math``.
        """
        # Look up only the first name of an expression such as Solution().add. It may shadow a builtin; other names of
        # the candidate may not, or its own all() could decide the tests.
        entry = set(entry_point.co_names[:1])
        wanted = sorted(
            entry | {name for name in _global_names(tests) if name not in self._names and not hasattr(builtins, name)}
        )
        for name in [name for name in wanted if name not in entry]:
            module = _ALIASES.get(name, name)
            if name in _ALIASES or module in sys.stdlib_module_names:
                wanted.remove(name)
                self.is_reusable &= module in _STATELESS
                with contextlib.suppress(ImportError):  # an undeclared package: the NameError of the test reports it
                    self._names[name] = importlib.import_module(module)
        for name, found in zip(wanted, self.ask("lookup", wanted)[0], strict=True):
            if not found:
                if name in entry:
                    raise CandidateFailed(f"NameError: the program does not define {name!r}")
            elif found[0] == "M":
                if str(found[1]).partition(".")[0] in sys.stdlib_module_names:
                    self.is_reusable &= found[1] in _STATELESS
                    self._names[name] = importlib.import_module(found[1])
            else:
                self._names[name] = self._decoder()(found[0])

    def reason(self, raised: BaseException) -> tuple[str, str]:
        """Return the status and a one-line error for an exception that ended the tests."""
        if self.broken:
            return ("tampered" if self.broken.startswith(_MALFORMED) else "died"), self.broken
        line = getattr(raised, "__dict__", {}).get("_from_candidate")
        if isinstance(raised, MemoryError):
            return "memory", line or "MemoryError"
        if line is not None or isinstance(raised, CandidateFailed):
            return "error", line or str(raised)
        return "failed", f"{type(raised).__name__}: {raised}"[:500]

    # --- requests -------------------------------------------------------------------------------------------------

    def ask(self, verb: str, *fields: Any) -> list[Data]:
        """Send a request to the candidate and return the fields of its answer.

        Raises the exception that the candidate answers with, or CandidateDied if the exchange ended.
        """
        if self.broken:
            raise CandidateDied(self.broken)
        try:
            kind, answer = self._exchange.ask(verb, *fields)
            if kind == ANSWER:
                return answer
            raised = self._exception(*answer)
        except ChannelClosed:
            self.broken = "the candidate process ended before it answered"
        except (BadFrame, OutOfTurn, Malformed, TypeError) as fault:
            self.broken = f"{_MALFORMED}: {fault}"
        if self.broken:
            raise CandidateDied(self.broken)
        raise raised

    def call(self, target: int, attribute: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a function or method of the candidate."""
        self.calls += 1
        encode = Encoder(self._export, numpy=self._numpy)
        data = [encode(item) for item in arguments]
        keywords = {name: encode(item) for name, item in named.items()}
        sent = len(encode.containers)
        answer = self.ask("call", target, attribute, data, keywords)
        decode = Decoder(self._resolve, self._setup_classes, encode.containers, numpy=self._numpy)
        try:
            changed, result = answer
            for number, contents in changed:
                if not 0 <= number < sent:
                    raise Malformed("a change of an unknown container")
                decode.refill(encode.containers[number], contents)
            return decode(result)
        except (ValueError, TypeError, RecursionError, LookupError) as fault:
            self.broken = f"{_MALFORMED}: {fault}"
            raise CandidateDied(self.broken) from fault

    def value(self, verb: str, *fields: Any) -> Any:
        """Send a request whose answer is one value, and return it."""
        answer = self.ask(verb, *fields)
        try:
            return self._decoder()(answer[0])
        except (ValueError, RecursionError, LookupError) as fault:
            self.broken = f"{_MALFORMED}: {fault}"
            raise CandidateDied(self.broken) from fault

    def encode(self, value: Any) -> Data:
        """Encode a value of the tests."""
        return Encoder(self._export, numpy=self._numpy)(value)

    def _serve(self, verb: str, fields: list[Any]) -> list[Any]:
        """Serve the only request allowed to a candidate: a call of a function that the tests passed to it."""
        if verb != "callback":
            raise OutOfTurn(f"request {verb!r}")
        handle, arguments, named = fields
        decode = self._decoder()
        function = self._functions[handle]
        try:
            result = function(*[decode(item) for item in arguments], **{k: decode(v) for k, v in named.items()})
            return [ANSWER, self.encode(result)]
        except Exception as raised:  # noqa: BLE001  (an exception of the function is for the candidate to handle)
            return ["!", type(raised).__name__, str(raised)[:500]]

    # --- values ---------------------------------------------------------------------------------------------------

    def _export(self, value: Any, encode: Encoder) -> Data:
        if isinstance(value, RemoteObject):
            return ["@", value._handle]  # noqa: SLF001  (public names of the proxy belong to the candidate)
        kind = type(value)
        if self._setup_classes.get(kind.__name__) is kind:
            return encode.instance(value)
        if callable(value) and not isinstance(value, type):
            self._functions.append(value)
            return ["K", len(self._functions) - 1]
        if hasattr(kind, "__next__"):
            return encode(list(value))
        raise Uncodable(f"a {kind.__name__} cannot be passed to the candidate as data")

    def _decoder(self) -> Decoder:
        return Decoder(self._resolve, self._setup_classes, numpy=self._numpy)

    def _resolve(self, tag: str, fields: list[Any]) -> Any:
        if tag == "@":
            return self._functions[fields[0]]
        if tag == "Q":
            return self._exception_class(*fields)
        handle, name = fields[0], fields[1]
        if type(handle) is not int or type(name) is not str:
            raise Malformed(f"tag {tag!r}")
        if tag == "C":
            return RemoteClass(self, handle, name)
        if tag == "I":
            return RemoteIterator(self, handle, name)
        if tag == "O":
            return RemoteObject(self, handle, name)
        raise Malformed(f"tag {tag!r}")

    def _exception_class(self, name: str, base_name: str) -> type:
        """Return the local counterpart of a candidate's exception class: the builtin or setup class of that name."""
        if name in self._exceptions:
            return self._exceptions[name]
        base = getattr(builtins, base_name, None)
        if not (isinstance(base, type) and issubclass(base, BaseException)):
            raise Malformed(f"exception base {base_name!r}")
        own = getattr(builtins, name, self._setup_classes.get(name))
        if isinstance(own, type) and issubclass(own, BaseException):
            base = kind = own
        else:
            kind = type(name, (base,), {})
        if not issubclass(base, Exception) or issubclass(base, _NEVER_RAISED):
            kind = CandidateFailed
        self._exceptions[name] = kind
        return kind

    def _exception(self, name: str, base: str, arguments: Data, text: str) -> BaseException:
        kind = self._exception_class(name, base)
        line = f"{name}: {text}" if text else name
        if kind is CandidateFailed:
            return CandidateFailed(line)
        try:
            raised = kind(*self._decoder()(arguments)) if arguments is not None else kind(text)
        except (TypeError, ValueError):  # its constructor takes other arguments
            raised = kind.__new__(kind, text)
        if not isinstance(raised, Exception):
            raise Malformed(f"exception {name!r}")
        raised.__dict__["_from_candidate"] = line
        return raised


def _global_names(code: CodeType) -> set[str]:
    """Return a superset of the global names that ``code`` may look up; it also contains attribute names."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _compiled(program: dict[str, Any]) -> tuple[CodeType, CodeType, CodeType]:
    """Return setup, tests and entry point as code objects. Raises InvalidTests."""
    guarded = program["mode"] == "guarded"  # guarded mode resolves the entry point in the candidate's process
    sources = (
        ("setup", program["setup"], "exec"),
        ("tests", program["tests"], "exec"),
        ("entry point", "0" if guarded else program["entry_point"], "eval"),
    )
    codes = []
    for name, source, kind in sources:
        try:
            codes.append(compile(source, f"<{name}>", kind, dont_inherit=True))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
            raise InvalidTests(f"{name} cannot be compiled: {type(fault).__name__}: {fault}") from fault
    setup, tests, entry_point = codes
    return setup, tests, entry_point


def _verdict(referee: Referee, program: dict[str, Any]) -> tuple[str, str]:
    """Run the tests and return status and error. Only the last line returns a pass."""
    try:
        setup, tests, entry_point = _compiled(program)
        if program["mode"] == "guarded":
            referee.is_reusable = True  # no part of it runs in this process
            status, error = referee.judge_guarded(program)
            if status != "passed":
                return status, error
        else:
            referee.judge(program, setup, tests, entry_point)
    except InvalidTests as fault:
        return "sandbox_error", f"the {fault}"
    except BaseException as raised:  # noqa: BLE001  (any exception of the tests is a failure, SystemExit included)
        return referee.reason(raised)
    if referee.broken:
        return referee.reason(CandidateDied(referee.broken))
    expected = program["expected_calls"]
    if not referee.calls or expected not in (None, referee.calls):
        return "failed", f"the tests made {referee.calls} calls or assertions" + (
            f" instead of {expected}" if expected else ""
        )
    return "passed", ""


def leaves_state_unchanged(code: CodeType) -> bool:
    """Return whether trusted code cannot affect code that runs later in the same process.

    True if it sets no attribute, imports only stateless modules, and uses no name that gives indirect access to either.
    """
    operations = code.co_code[::2]
    if any(operation in operations for operation in _SETS_ATTRIBUTES) or _INDIRECT_ACCESS & set(code.co_names):
        return False
    position = operations.find(_IMPORT)
    while position >= 0:
        if code.co_names[code.co_code[2 * position + 1]] not in _STATELESS or operations[position - 1] == _EXTENDED:
            return False
        position = operations.find(_IMPORT, position + 1)
    return all(leaves_state_unchanged(constant) for constant in code.co_consts if isinstance(constant, CodeType))


_SETS_ATTRIBUTES = tuple(opmap[name] for name in ("STORE_ATTR", "DELETE_ATTR"))
_IMPORT, _EXTENDED = opmap["IMPORT_NAME"], opmap["EXTENDED_ARG"]
# random has state, but is reseeded for every program.
_STATELESS = frozenset(
    {"math", "random", "copy", "typing", "itertools", "functools", "collections", "string", "re", "operator"}
)
_INDIRECT_ACCESS = frozenset(
    {"setattr", "delattr", "exec", "eval", "compile", "open", "globals", "locals", "vars", "__import__", "__dict__"}
    | {"__builtins__", "__class__", "__globals__", "sys", "os", "gc", "modules"}
)


def serve(programs: int, verdicts: int, notes: int, control: socket, *, numpy: bool) -> NoReturn:
    """Run the referee process: one program after another, until the worker closes ``control`` or replaces it."""
    while True:
        message, descriptors, _, _ = recv_fds(control, 16, 2)
        if not message:
            raise SystemExit
        answers, requests = descriptors
        program = read_frame(programs)
        write_frame(verdicts, {"read": True})
        random.seed(0)
        referee = Referee(Channel(answers, requests), numpy=numpy)
        status, error = _verdict(referee, program)
        for descriptor in descriptors:
            close(descriptor)
        spent = not referee.is_reusable or getrusage(RUSAGE_SELF).ru_maxrss > _MAX_RSS_KILOBYTES
        # The error may quote an expected value. It goes directly to the pool, bypassing the worker, whose memory the
        # next candidate inherits. The frame is short enough for an atomic write.
        write_frame(notes, {"note": error[:_NOTE_CHARACTERS]})
        write_frame(verdicts, {"status": status, "calls": referee.calls, "spent": spent})
