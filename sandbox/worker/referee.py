"""The referee process: runs the tests and alone may write the verdict.

It holds the tests, the expected values and the verdict pipe, and never compiles candidate code. What the tests know as
the candidate's functions are proxies that send the arguments over and rebuild the answer from data; what the candidate
says is never compared by a method of the candidate's. A pass needs positive evidence: every statement of the tests ran
to its end, at least one call was made (exactly as many as the reference makes, where that is known), and the
conversation never broke.
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

_NEVER_RAISED = (StopIteration, StopAsyncIteration, GeneratorExit)  # a test would take these for the end of a loop
_MALFORMED = "malformed answer"
_ALIASES = {"np": "numpy", "numpy": "numpy", "pd": "pandas", "pandas": "pandas", "scipy": "scipy"}
"""Packages by the names that tests know them under."""
_FAT_KILOBYTES = 200 << 10
_NOTE_CHARACTERS = 300  # of at most 12 bytes in JSON: below PIPE_BUF


class UnfitTests(Exception):  # noqa: N818  (names the thing)
    """The trusted part of a program does not work by itself, whatever the candidate does."""


class Referee:
    """The tests' view of one candidate."""

    def __init__(self, channel: Channel, *, numpy: bool) -> None:
        self._exchange = Exchange(channel, self._serve)
        self._numpy = numpy
        self._functions: list[Any] = []
        self._names: dict[str, Any] = {}
        self._setup_classes: dict[str, type] = {}
        self._exceptions: dict[str, type] = {}
        self.calls = 0
        self.is_clean = False
        """Whether another program may be judged in this process."""
        self.broken = ""
        """Why the conversation ended; once set, no pass is possible."""

    # --- the program ----------------------------------------------------------------------------------------------

    def judge(self, program: dict[str, Any], setup: CodeType, tests: CodeType, entry_point: CodeType) -> None:
        """Run all tests. Returns only where they passed; raises UnfitTests where the setup fails by itself."""
        names = self._names = {"__name__": "tests", "__builtins__": builtins}
        self.is_clean = leaves_no_trace(setup) and leaves_no_trace(tests)
        try:
            exec(setup, names)  # noqa: S102  (trusted code)
        except BaseException as raised:
            raise UnfitTests(f"setup fails: {type(raised).__name__}: {raised}") from raised
        self._setup_classes = {name: thing for name, thing in names.items() if isinstance(thing, type)}
        self.ask("load", program["setup"], program.pop("candidate"))
        self._import_names(tests, entry_point)
        exec(tests, names)  # noqa: S102  (trusted code)
        if not self.calls and callable(
            names.get("check")
        ):  # HumanEval's form; some define check and call it themselves
            names["check"](eval(entry_point, names))  # noqa: S307  (trusted, such as Solution().add)

    def judge_guarded(self, program: dict[str, Any]) -> tuple[str, str]:
        """Have the candidate's process run the tests, and judge the transcript that it hands in."""
        parts = (program["setup"], program["candidate"], program["tests"], program["entry_point"])
        status, error, self.calls, suspicious = self.ask("guard", *parts)
        if status not in ("passed", "failed", "error", "memory") or type(self.calls) is not int:
            return "tampered", "malformed transcript"
        if suspicious:
            return "tampered", f"the candidate used {', '.join(sorted(set(map(str, suspicious))))}"
        return status, str(error)

    def _import_names(self, tests: CodeType, entry_point: CodeType) -> None:
        """Fetch what the tests name and neither they nor the setup define.

        Modules are the referee's own, whatever the candidate calls so: tests that rely on a solution's ``import math``
        must not have their comparisons answered by a class of that name.
        """
        # Only the first name of an expression such as Solution().add is looked up. It may shadow a builtin; no other
        # name of the candidate's may, or its own all() would judge it.
        entry = set(entry_point.co_names[:1])
        wanted = sorted(
            entry | {name for name in _global_names(tests) if name not in self._names and not hasattr(builtins, name)}
        )
        for name in [name for name in wanted if name not in entry]:
            module = _ALIASES.get(name, name)
            if name in _ALIASES or module in sys.stdlib_module_names:
                wanted.remove(name)
                self.is_clean &= module in _STATELESS
                with contextlib.suppress(ImportError):  # a package that was not declared: the test's NameError says so
                    self._names[name] = importlib.import_module(module)
        for name, found in zip(wanted, self.ask("look", wanted)[0], strict=True):
            if not found:
                if name in entry:
                    raise CandidateFailed(f"NameError: the program does not define {name!r}")
            elif found[0] == "M":
                if str(found[1]).partition(".")[0] in sys.stdlib_module_names:
                    self.is_clean &= found[1] in _STATELESS
                    self._names[name] = importlib.import_module(found[1])
            else:
                self._names[name] = self._decoder()(found[0])

    def reason(self, raised: BaseException) -> tuple[str, str]:
        """Return the status and the one line that tell why the tests ended early."""
        if self.broken:
            return ("tampered" if self.broken.startswith(_MALFORMED) else "died"), self.broken
        line = getattr(raised, "__dict__", {}).get("_from_candidate")
        if isinstance(raised, MemoryError):
            return "memory", line or "MemoryError"
        if line is not None or isinstance(raised, CandidateFailed):
            return "error", line or str(raised)
        return "failed", f"{type(raised).__name__}: {raised}"[:500]

    # --- the conversation -----------------------------------------------------------------------------------------

    def ask(self, verb: str, *fields: Any) -> list[Data]:
        """Put a request to the candidate; raises its exception, or CandidateDied where the conversation broke."""
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
                    raise Malformed("a change of nothing")
                decode.refill(encode.containers[number], contents)
            return decode(result)
        except (ValueError, TypeError, RecursionError, LookupError) as fault:
            self.broken = f"{_MALFORMED}: {fault}"
            raise CandidateDied(self.broken) from fault

    def value(self, verb: str, *fields: Any) -> Any:
        """Put a request whose answer is one value."""
        answer = self.ask(verb, *fields)
        try:
            return self._decoder()(answer[0])
        except (ValueError, RecursionError, LookupError) as fault:
            self.broken = f"{_MALFORMED}: {fault}"
            raise CandidateDied(self.broken) from fault

    def encode(self, value: Any) -> Data:
        """Return a value of the tests as data."""
        return Encoder(self._export, numpy=self._numpy)(value)

    def _serve(self, verb: str, fields: list[Any]) -> list[Any]:
        """Answer the one request that a candidate may put: to call a function that the tests handed over."""
        if verb != "back":
            raise OutOfTurn(f"request {verb!r}")
        handle, arguments, named = fields
        decode = self._decoder()
        function = self._functions[handle]
        try:
            result = function(*[decode(item) for item in arguments], **{k: decode(v) for k, v in named.items()})
            return [ANSWER, self.encode(result)]
        except Exception as raised:  # noqa: BLE001  (whatever the tests' function raises is the candidate's to handle)
            return ["!", type(raised).__name__, str(raised)[:500]]

    # --- values ---------------------------------------------------------------------------------------------------

    def _export(self, value: Any, encode: Encoder) -> Data:
        if isinstance(value, RemoteObject):
            return ["@", value._handle]  # noqa: SLF001  (the proxy's one field; its public names are the candidate's)
        kind = type(value)
        if self._setup_classes.get(kind.__name__) is kind:
            return encode.instance(value)
        if callable(value) and not isinstance(value, type):
            self._functions.append(value)
            return ["K", len(self._functions) - 1]
        if hasattr(kind, "__next__"):
            return encode(list(value))
        raise Uncodable(f"a {kind.__name__} cannot be handed to the candidate as data")

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
        """Return the class that stands here for an exception class there: the builtin or setup class of that name."""
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
        except (TypeError, ValueError):  # its constructor wants something else
            raised = kind.__new__(kind, text)
        if not isinstance(raised, Exception):
            raise Malformed(f"exception {name!r}")
        raised.__dict__["_from_candidate"] = line
        return raised


def _global_names(code: CodeType) -> set[str]:
    """Return every name that ``code`` may look up outside of its functions; attributes are among them, harmlessly."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


def _compiled(program: dict[str, Any]) -> tuple[CodeType, CodeType, CodeType]:
    """Return setup, tests and entry point as code; raises UnfitTests."""
    guarded = program["mode"] == "guarded"  # which looks its entry point up in the candidate's process
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
            raise UnfitTests(f"{name} cannot be compiled: {type(fault).__name__}: {fault}") from fault
    setup, tests, entry_point = codes
    return setup, tests, entry_point


def _verdict(referee: Referee, program: dict[str, Any]) -> tuple[str, str]:
    """Run the tests and return status and error. Every way out but the last line is not a pass."""
    try:
        setup, tests, entry_point = _compiled(program)
        if program["mode"] == "guarded":
            referee.is_clean = True  # nothing of it runs here
            status, error = referee.judge_guarded(program)
            if status != "passed":
                return status, error
        else:
            referee.judge(program, setup, tests, entry_point)
    except UnfitTests as fault:
        return "sandbox_error", f"the {fault}"
    except BaseException as raised:  # noqa: BLE001  (tests raise anything; each is a fail, SystemExit too)
        return referee.reason(raised)
    if referee.broken:
        return referee.reason(CandidateDied(referee.broken))
    expected = program["expected_calls"]
    if not referee.calls or expected not in (None, referee.calls):
        return "failed", f"the tests made {referee.calls} calls or assertions" + (
            f" instead of {expected}" if expected else ""
        )
    return "passed", ""


def leaves_no_trace(code: CodeType) -> bool:
    """Tell whether trusted code can be followed by other code in the same process as if it had never run.

    So it is where it sets no attribute of anything, imports only modules that have no state, and names nothing by which
    it could get around that.
    """
    operations = code.co_code[::2]
    if any(operation in operations for operation in _SETS_ATTRIBUTES) or _WAYS_AROUND & set(code.co_names):
        return False
    position = operations.find(_IMPORT)
    while position >= 0:
        if code.co_names[code.co_code[2 * position + 1]] not in _STATELESS or operations[position - 1] == _EXTENDED:
            return False
        position = operations.find(_IMPORT, position + 1)
    return all(leaves_no_trace(constant) for constant in code.co_consts if isinstance(constant, CodeType))


_SETS_ATTRIBUTES = tuple(opmap[name] for name in ("STORE_ATTR", "DELETE_ATTR"))
_IMPORT, _EXTENDED = opmap["IMPORT_NAME"], opmap["EXTENDED_ARG"]
_STATELESS = frozenset(
    {"math", "random", "copy", "typing", "itertools", "functools", "collections", "string", "re", "operator"}
)  # random has state, which is set anew for every program
_WAYS_AROUND = frozenset(
    {"setattr", "delattr", "exec", "eval", "compile", "open", "globals", "locals", "vars", "__import__", "__dict__"}
    | {"__builtins__", "__class__", "__globals__", "sys", "os", "gc", "modules"}
)


def serve(programs: int, verdicts: int, notes: int, orders: socket, *, numpy: bool) -> NoReturn:
    """Be the referee process: judge program after program, until one has left a trace."""
    while True:
        order, descriptors, _, _ = recv_fds(orders, 16, 2)
        if not order:
            raise SystemExit
        answers, requests = descriptors
        program = read_frame(programs)
        write_frame(verdicts, {"read": True})
        random.seed(0)
        referee = Referee(Channel(answers, requests), numpy=numpy)
        status, error = _verdict(referee, program)
        for descriptor in descriptors:
            close(descriptor)
        spent = not referee.is_clean or getrusage(RUSAGE_SELF).ru_maxrss > _FAT_KILOBYTES
        # What went wrong may quote an expected value. It goes to the pool past the worker, whose memory the next
        # candidate inherits. The frame is short enough to be written in one piece.
        write_frame(notes, {"note": error[:_NOTE_CHARACTERS]})
        write_frame(verdicts, {"status": status, "calls": referee.calls, "spent": spent})
