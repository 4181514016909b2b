"""What a refused global would do is said by its name alone."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import warnings
from collections import Counter

import pytest
import torch
import torch.distributed.checkpoint
from hypothesis import given
from hypothesis import strategies as st
from torch import _weights_only_unpickler

from manifest.checkpoint.pickles import named_globals
from manifest.checkpoint.pickles.effects import Effect, Judgement
from manifest.checkpoint.pickles.named_globals import judge
from manifest.checkpoint.pickles.pickle_vm import interpret
from manifest.checkpoint.pickles.torch_objects import TorchObjects

KNOWN = {
    "runs a shell command": """
        os.system posix.system nt.system os.popen subprocess.getoutput commands.getoutput commands.getstatusoutput
        popen2.popen3 platform.popen torch.utils.collect_env.run numpy.distutils.exec_command.exec_command
    """,
    "starts a program": """
        subprocess.Popen subprocess.run subprocess.check_output subprocess.call _posixsubprocess.fork_exec pty.spawn
        os.execv os.spawnlp os.posix_spawn webbrowser.open asyncio.create_subprocess_shell pexpect.run
    """,
    "starts threads or processes": """
        threading.Thread _thread.start_new_thread thread.start_new_thread multiprocessing.Process
        multiprocessing.context.Process concurrent.futures.ThreadPoolExecutor asyncio.run asyncio.events.new_event_loop
        torch.multiprocessing.spawn
    """,
    "deletes or changes files": "os.remove os.unlink posix.unlink shutil.rmtree shutil.copyfile os.makedirs",
    "reaches the operating system: its programs, files and processes": "os.kill os.listdir nt.getpid signal.alarm os",
    "evaluates Python source": """
        builtins.eval builtins.exec __builtin__.eval __builtin__.execfile __builtins__.exec code.InteractiveInterpreter
        code.InteractiveInterpreter.runcode codeop.compile_command timeit.timeit timeit.main doctest.debug_script
        runpy.run_path runpy._run_code idlelib.run.Executive.runcode lib2to3.pgen2.grammar.Grammar.loads
        numpy.testing._private.utils.runstring torch.fx.graph_module.reduce_graph_module
        torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression pandas.eval
        pandas.core.frame.DataFrame.query new.function sympy.sympify
    """,
    "compiles Python source": "builtins.compile py_compile.compile compileall.compile_dir",
    "runs code under a debugger or profiler": """
        pdb.run pdb.set_trace bdb.Bdb.run cProfile.run cProfile.runctx profile.Profile.run trace.Trace.run
        builtins.breakpoint torch.profiler.profile
    """,
    "runs the tests of a program": "unittest.mock._importer test.support.run_unittest pytest.main",
    "compiles and runs machine code": """
        ctypes.CDLL ctypes.util.find_library ctypes.pythonapi _ctypes.dlopen cffi.FFI numpy.ctypeslib.load_library
        numpy.f2py.crackfortran.getlincoef torch.utils.cpp_extension.load
    """,
    "traces, compiles or runs a program": """
        torch.jit.load torch.jit.unsupported_tensor_ops.execWrapper torch._dynamo.guards.GuardBuilder.get
        torch._inductor.codecache.compile_file torch.compile torch.export.load torch.jit._script.RecursiveScriptModule
    """,
    "defines or loads compiled operators": "torch.ops.load_library torch.library.Library torch.classes.load_library",
    "installs software": "pip.main setuptools.setup distutils.file_util.write_file ensurepip._run_pip",
    "imports any module by its name": """
        builtins.__import__ __builtin__.reload importlib.import_module imp.load_source pkgutil.resolve_name pydoc.locate
        pydoc.pipepager zipimport.zipimporter logging.config.listen numpy.core._ufunc_reconstruct
        torch._utils._import_dotted_name site.main hydra.utils.instantiate
    """,
    "reaches the interpreter, and every module that it has loaded": """
        sys.modules sys.exit sys.setprofile gc.get_objects inspect.stack builtins.globals builtins.vars atexit.register
        __builtin__.intern
    """,
    "reads, sets or deletes any attribute": """
        builtins.getattr __builtin__.getattr builtins.setattr builtins.delattr operator.attrgetter operator.itemgetter
        builtins.str.format string.Formatter.format string.Formatter
    """,
    "takes apart, changes or calls what it is given": "operator.iadd _operator.methodcaller",
    "makes functions, classes or modules": """
        builtins.type types.FunctionType types.CodeType types.MethodType types.ModuleType
    """,
    "calls what it is given": """
        builtins.map builtins.filter itertools.imap __builtin__.reduce functools.reduce
        itertools.starmap operator.methodcaller numpy.apply_along_axis numpy.vectorize torch.Tensor.apply_ torch.vmap
        copy.deepcopy heapq.nsmallest abc.ABCMeta.register
    """,
    "waits for input": "builtins.input __builtin__.raw_input getpass.getpass tkinter.Tk Tkinter.Tk",
    "changes what weights_only allows": "torch.serialization.add_safe_globals torch._weights_only_unpickler.load",
    "unpickles without any restriction": """
        pickle.loads _pickle.loads cPickle.loads dill._dill._create_function cloudpickle.cloudpickle._make_function
        joblib.load shelve.open torch.load torch.serialization.load torch.storage._load_from_bytes numpy.load
        torch.package.PackageImporter torch.utils._config_module.ConfigModule.load_config pandas.read_pickle
        torch.utils.data.datapipes.utils.decoder.basichandlers numpy.lib.npyio.load
    """,
    "reads code objects": "marshal.loads",
    "builds whatever a text names": "jsonpickle.decode yaml.unsafe_load",
    "downloads files, or loads them by a name": """
        torch.hub.load torch.hub.load_state_dict_from_url huggingface_hub.hf_hub_download
        open_clip.tokenizer.HFTokenizer torch.utils.model_zoo.load_url
    """,
    "opens any file": """
        builtins.open __builtin__.file io.open io.FileIO _io.open codecs.open linecache.getline fileinput.input
        sqlite3.connect zipfile.ZipFile anydbm.open logging.FileHandler PIL.Image.open
    """,
    "lists, reads or writes files": """
        glob.glob pathlib.Path.write_text pathlib.Path.unlink numpy.fromfile numpy.memmap numpy.loadtxt numpy.genfromtxt
        pandas.read_csv pandas.io.sql.read_sql
    """,
    "writes files": "tempfile.mktemp torch.save numpy.save numpy.savez numpy.ndarray.tofile",
    "opens connections": """
        socket.socket socket.create_connection ssl.get_server_certificate http.client.HTTPSConnection
        httplib.HTTPSConnection urllib.request.urlopen urllib2.urlopen urllib.urlopen requests.get requests.api.post
        aiohttp.ClientSession httpx.get ftplib.FTP smtplib.SMTP telnetlib.Telnet xmlrpc.client.ServerProxy
        xmlrpclib.ServerProxy
    """,
    "starts processes and opens connections": """
        torch.distributed.rpc.rpc_sync torch.distributed.run.main torch.distributed.init_process_group
        torch.distributed.checkpoint.state_dict_loader.load
    """,
    "reaches torch's compiled parts, its readers of files among them": "torch._C.PyTorchFileReader",
    "reaches os through another module": """
        torch.serialization.os.system argparse._os.os.system posixpath.os.system timm.models._hub.os.remove
        collections.abc.os.popen
    """,
    "reaches sys through another module": "argparse._sys.sys.modules collections.sys.exit",
    "reaches shutil through another module": "torch.nn.modules.shutil.rmtree",
    "reaches builtins through another module": "six.moves.builtins.eval",
    "reaches functools.reduce through another module": "timm.layers.functools.reduce",
    "reaches types.FunctionType through another module": "mypackage.types.FunctionType",
    "reaches what Python keeps under names with double underscores": """
        builtins.str.__class__.__base__.__subclasses__ argparse.Namespace.__init__.__globals__
        collections.OrderedDict.__reduce__ numpy.__builtins__x.__dict__ torch.nn.modules.linear.Linear.__getattribute__
    """,
    "reaches the class ModuleType of another module": "torchvision.models._api.ModuleType",
    "reaches the class GraphModule of another module": "torch.ao.quantization.qconfig.GraphModule",
    "loads files by name, and may download them": """
        transformers.models.bert.modeling_bert.BertModel.from_pretrained transformers.AutoModel.from_pretrained
    """,
}

DATA = {
    "makes a plain namespace": """
        argparse.Namespace types.SimpleNamespace easydict.EasyDict yacs.config.CfgNode addict.Dict
        pytorch_lightning.utilities.parsing.AttributeDict lightning.fabric.utilities.data.AttributeDict
    """,
    "makes a plain container": "collections.defaultdict collections.deque __builtin__.list UserDict.UserDict",
    "makes a plain value": "__builtin__.unicode __builtin__.long builtins.slice builtins.object __builtin__.xrange",
    "binds values to something that is named beside it": "functools.partial",
    "makes a path, without opening it": "pathlib.PosixPath pathlib.Path pathlib._local.PosixPath",
    "makes a date or time": "datetime.datetime datetime.timedelta datetime.timezone",
    "makes a plain number": "decimal.Decimal fractions.Fraction",
    "makes an identifier": "uuid.UUID",
    "makes a type annotation": "typing.Any",
    "makes an object of a class that is named beside it": "copyreg._reconstructor copy_reg._reconstructor",
    "makes a numpy array or number": """
        numpy.core.multiarray.scalar numpy._core.multiarray._reconstruct numpy.dtype numpy.float64
        numpy.dtypes.Float32DType
    """,
    "makes a random number generator of numpy's": """
        numpy.random._pickle.__randomstate_ctor numpy.random._mt19937.MT19937
    """,
    "makes a setting of omegaconf's": "omegaconf.dictconfig.DictConfig omegaconf.nodes.AnyNode omegaconf.base.Metadata",
    "makes a setting or callback of Lightning's": """
        pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint lightning.pytorch.trainer.states.TrainerFn
    """,
    "makes a training setting of transformers'": """
        transformers.training_args.TrainingArguments transformers.trainer_utils.IntervalStrategy
    """,
    "makes a setting of accelerate's": "accelerate.state.PartialState accelerate.utils.dataclasses.DistributedType",
    "makes a small value of torch's": "torch.torch_version.TorchVersion",
    "makes a module of torch's own, which weights_only refuses": """
        torch.nn.modules.linear.Linear torch.nn.modules.container.Sequential torch.nn.parameter.Buffer
        torch.nn.parallel.data_parallel.DataParallel torch.ao.nn.quantized.modules.linear.Linear
    """,
    "makes an optimizer or schedule of torch's own, which weights_only refuses": """
        torch.optim.adam.Adam torch.optim.lr_scheduler.StepLR torch.optim.optimizer._RequiredParameter
    """,
    "makes a module of torchvision's own, which weights_only refuses": """
        torchvision.models.resnet.ResNet torchvision.models.detection.faster_rcnn.FasterRCNN torchvision.ops.misc.MLP
    """,
    "makes a module of timm's own, which weights_only refuses": """
        timm.models.vision_transformer.VisionTransformer timm.layers.drop.DropPath timm.models.layers.mlp.Mlp
    """,
    "makes a module of open_clip's own, which weights_only refuses": "open_clip.model.CLIP",
    "makes a module of transformers' own, which weights_only refuses": """
        transformers.models.bert.modeling_bert.BertModel transformers.models.clip.configuration_clip.CLIPConfig
    """,
    "describes a distributed checkpoint": """
        torch.distributed.checkpoint.metadata.Metadata torch.distributed.checkpoint.filesystem._StorageInfo
        torch.distributed.checkpoint.planner.WriteItem
    """,
    "is a class of the TorchScript program in the file": """
        __torch__.torch.nn.modules.conv.Conv2d __torch__.___torch_mangle_0.Net __torch__.code.model.Net
    """,
}

UNKNOWN = """
    mypackage.model.Net models.yolo.Model ultralytics.nn.tasks.DetectionModel fairseq.data.dictionary.Dictionary x . a.b
    torch.nn.modules.linear.Linear.forward torchvision.models.resnet.resnet50 torch.nn.modules.module.lower
    transformers.models.bert.tokenization_bert.BertTokenizer timm.models.vision_transformer.Vision.Inner
    torch.storage.torch.hub.load
    torch.made_up mypackage.ssl.SimCLR mypackage.code.Net mypackage.signal.Filter builtins.made_up
"""

PACKAGES = sorted(named_globals._WITHIN.keys() - {"__torch__"})


def rows(effect: Effect, table: dict[str, str]) -> list[tuple[str, Effect, str]]:
    return [(name, effect, does) for does, names in table.items() for name in names.split()]


@pytest.mark.parametrize(("name", "effect", "does"), rows(Effect.CODE, KNOWN) + rows(Effect.DATA, DATA))
def test_global_when_known_then_says_what_it_does(name, effect, does):
    assert judge(name) == Judgement(effect, does)


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_global_when_not_known_then_says_so(name):
    assert judge(name) == Judgement(Effect.UNKNOWN, "is not known, and would run whatever it is")


def test_global_when_of_the_writing_script_then_says_so():
    assert judge("__main__.Config") == Judgement(
        Effect.UNKNOWN, "is of the script that wrote the file, and would run whatever the loading script calls so"
    )


def test_global_when_of_an_extension_number_then_says_who_decides():
    assert (
        judge("copyreg.extension_7").does == "stands for whatever the loading script has registered under this number"
    )


def test_globals_when_torch_takes_them_then_are_those_of_the_catalogue():
    taken = {name for name, judgement in named_globals._EXACT.items() if judgement.effect is Effect.TENSORS}
    assert taken == set(_weights_only_unpickler._get_allowed_globals()) | registered_by_importing_torch()


def registered_by_importing_torch() -> set[str]:
    source = (
        "import torch; print(*(f'{it.__module__}.{it.__qualname__}' for it in torch.serialization.get_safe_globals()))"
    )
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_globals_when_torch_asks_for_an_import_first_then_make_values():
    source = inspect.getsource(_weights_only_unpickler.Unpickler.load)
    special = re.findall(r'"(torch\.[\w.]+\w)",\n', source)
    assert len(special) >= 10
    assert {judge(name).effect for name in special} <= {Effect.DATA, Effect.TENSORS}


def test_globals_when_torch_blocks_their_module_then_are_code():
    assert {judge(f"{module}.x").effect for module in _weights_only_unpickler._blocklisted_modules} == {Effect.CODE}


@pytest.mark.parametrize("name", sorted(TorchObjects().constructors))
def test_global_when_the_reader_understands_it_then_makes_values(name):
    assert judge(name).effect in (Effect.TENSORS, Effect.DATA)


def test_globals_when_of_a_distributed_checkpoint_then_make_values(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.checkpoint.save({"w": torch.ones(2), "step": 3}, checkpoint_id=tmp_path)
    named = interpret((tmp_path / ".metadata").read_bytes(), {}, lambda _: None).globals
    assert "torch.distributed.checkpoint.metadata.Metadata" in named
    assert {judge(name).effect for name in named} == {Effect.TENSORS, Effect.DATA}


@pytest.mark.parametrize(
    "package", ["torch.nn", "torch.optim", "torch.distributions", "torchvision.models", "timm.models", "open_clip"]
)
def test_classes_when_a_module_imports_them_then_are_not_harmless_by_its_name(package):
    guests, hosts = [], []
    for module in modules_of(package):
        for name, found in vars(module).items():
            if isinstance(found, type):
                own = (found.__module__, found.__qualname__) == (module.__name__, name)
                (hosts if own else guests).append(f"{module.__name__}.{name}")
    assert guests
    assert not [name for name in guests if judge(name).effect in (Effect.DATA, Effect.TENSORS)]
    assert [name for name in hosts if judge(name).effect is Effect.DATA]


def modules_of(package):
    root = importlib.import_module(package)
    yield root
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        try:
            yield importlib.import_module(found.name)
        except (ImportError, RuntimeError):
            continue  # needs a library that is not here


def test_catalogue_when_read_then_says_one_thing_about_each_name():
    counted = Counter(name for name, _ in named_globals._catalogue())
    assert not [name for name, count in counted.items() if count > 1]
    assert not [name for name in counted if not all(name.split(".")) or set(name) & set("{},")]


def test_catalogue_when_read_then_its_clauses_complete_a_sentence():
    clauses = {judgement.does for _, judgement in named_globals._catalogue()}
    assert not [clause for clause in clauses if not re.fullmatch(r"[a-z]+s,? [^.]{3,80}", clause)]


@pytest.mark.parametrize("package", PACKAGES)
def test_package_when_dangerous_then_covers_what_is_in_it(package):
    assert judge(f"{package}.anything").effect is Effect.CODE
    assert judge(f"{package}.inner.Anything").effect is Effect.CODE


@given(st.sampled_from(PACKAGES), st.text(st.characters()))
def test_package_when_dangerous_then_covers_whatever_is_not_listed_by_itself(package, rest):
    name = f"{package}.{rest}"
    assert judge(name).effect is Effect.CODE or name in named_globals._EXACT


SEGMENT = st.sampled_from(["torch", "nn", "os", "__class__", "Linear", "builtins", "x", "", "copyreg", "__torch__"])


@given(st.text(st.characters()) | st.lists(SEGMENT).map(".".join))
def test_judgement_when_of_anything_then_is_a_printable_clause(name):
    judgement = judge(name)
    assert isinstance(judgement.effect, Effect)
    assert judgement.does and judgement.does.isprintable()


@given(st.lists(st.sampled_from(["mypackage", "torch", "nn", "Linear"]), min_size=1).map(".".join))
def test_chain_when_it_passes_through_os_then_is_code(beginning):
    assert judge(f"{beginning}.os.system").effect is Effect.CODE


def test_judgement_when_the_name_is_very_long_then_is_quick():
    assert judge(".".join(["a"] * 500_000)).effect is Effect.UNKNOWN


def test_member_of_an_enumeration_does_what_its_class_does():
    assert judge("torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT") == judge(
        "torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING"
    )
    assert judge("mypackage.Kind.RED").effect is Effect.UNKNOWN
    assert judge("collections.os.RED").effect is Effect.CODE
    assert judge("A." * 5_000 + "A").effect is Effect.UNKNOWN
