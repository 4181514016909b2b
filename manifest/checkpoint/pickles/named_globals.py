"""What a global that a pickle names would do when a real unpickler met it.

It knows names only, and never imports them: the catalogue is for telling a reader what was refused, never for letting
anything through. What torch takes is from `torch/_weights_only_unpickler.py` of 2.14.1, Python 2's spellings are those
that `pickle` itself translates, and the rest is what the standard library and the libraries of the field document.

Harmless are only names that are listed in full: those below, each looked at, and those of `harmless_classes.json`,
which `fixtures/harmless_classes.py` makes by looking at each class of the libraries. How a name is used, `uses` judges.

This file is long because more than half of it is one table, the catalogue of names and of what each would do.
"""

from __future__ import annotations

import builtins
import json
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from manifest.checkpoint.pickles.effects import Effect, Judgement
from manifest.checkpoint.tensors import ITEM_SIZES, SCRIPTED_STORAGE_CLASSES, STORAGE_CLASSES


def judge(name: str) -> Judgement:
    """What a global would do when a real unpickler met it.

    Args:
        name: `module.qualname` as the pickle says it; the spellings of Python 2 are understood.
    """
    name = in_python_3(name)
    if name.endswith(ODDLY):
        inner = judge(name.removesuffix(ODDLY))
        return inner if inner.effect in (Effect.CODE, Effect.UNKNOWN) else _USED_ODDLY
    owner, _, member = name.rpartition(".")
    if member.isupper() and is_enumeration(owner):
        return _judge(owner)  # a member of an enumeration does what its class does
    return _judge(name)


def class_kind(name: str) -> str | None:
    """What a class of the libraries is, by its exact name: as `fixtures/harmless_classes.py` says; None for others."""
    owner, _, last = _where_it_is_now(name).rpartition(".")
    return _harmless_classes().get(owner, {}).get(last)


def is_enumeration(name: str) -> bool:
    """Whether it is an enumeration whose members are looked up by their values and nothing else."""
    return name in ENUMERATIONS or class_kind(name) == "enum"


def _judge(name: str) -> Judgement:
    if name in _EXACT:
        return _EXACT[name]
    segments = name.split(".")
    return (
        _by_package(segments)
        or _by_escape(segments)
        or _by_library(segments)
        or _UNKNOWN.get(segments[0])
        or (_REGISTERED if name.startswith("copyreg.extension_") else _NOT_KNOWN)
    )


_NOT_KNOWN = Judgement(Effect.UNKNOWN, "is not known, and would run whatever it is")
_USED_ODDLY = Judgement(
    Effect.UNKNOWN, "is called or changed as no library saves it, and what that would run or take is not known"
)
_REGISTERED = Judgement(Effect.UNKNOWN, "stands for whatever the loading script has registered under this number")
_OF_THE_SCRIPT = Judgement(
    Effect.UNKNOWN, "is of the script that wrote the file, and would run whatever the loading script calls so"
)
_UNKNOWN = {"__main__": _OF_THE_SCRIPT, "__mp_main__": _OF_THE_SCRIPT}


def in_python_3(name: str) -> str:
    """As `pickle.Unpickler(fix_imports=True)` finds it, and torch's unpickler for every protocol."""
    module, _, rest = name.partition(".")
    if module == "__builtins__":
        return f"builtins.{rest}"
    if module == "builtins" and ("__builtin__", rest) in NAME_MAPPING:
        module = "__builtin__"  # which the pickle machine has put into the spelling of Python 3
    if (module, rest) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, rest])
    return f"{IMPORT_MAPPING[module]}.{rest}" if module in IMPORT_MAPPING else name


def _by_package(segments: list[str]) -> Judgement | None:
    """By the innermost package in the catalogue that it lies in."""
    for count in range(min(len(segments), _DEEPEST), 0, -1):
        if found := _WITHIN.get(".".join(segments[:count])):
            return found
    return None


def _by_escape(segments: list[str]) -> Judgement | None:
    """Whether it goes from a harmless module to something in another one.

    From protocol 4 on a pickle may follow attributes, and a module has those that it imported as well as its own:
    `torch.serialization.os.system` is `os.system`.
    """
    inner = segments[1:]
    for segment in inner:
        # Some modules import `os as _os`.
        if (bare := segment.strip("_")) in _REACHED_MODULES:
            return Judgement(Effect.CODE, f"reaches {bare} through another module")
        if re.fullmatch(r"__\w+__", segment):
            return Judgement(Effect.CODE, "reaches what Python keeps under names with double underscores")
    for count in range(2, min(len(inner), _DEEPEST) + 1):
        tail = ".".join(inner[-count:])
        if tail in _EXACT and _EXACT[tail].effect is Effect.CODE:
            return Judgement(Effect.CODE, f"reaches {tail} through another module")
    if inner and inner[-1] in _CODE_ENDINGS:
        return Judgement(Effect.CODE, _CODE_ENDINGS[inner[-1]])
    return None


def _by_library(segments: list[str]) -> Judgement | None:
    """Whether it is a class that was looked at; never one that is reached through another module, or its attribute."""
    name = ".".join(segments)
    if class_kind(name) is None:
        last = segments[-1]
        reaches = last in _CODE_CLASSES and segments[0] in ("torch", "torchvision", "timm", "open_clip", "transformers")
        return Judgement(Effect.CODE, f"reaches the class {last} of another module") if reaches else None
    what = next(
        (what for package, what in _LIBRARIES.items() if name.startswith(f"{package}.")), "a class of its library's"
    )
    return Judgement(Effect.DATA, f"makes {what} own, which weights_only refuses")


@cache
def _harmless_classes() -> dict[str, dict[str, str]]:
    """Kinds by module and name."""
    content = json.loads(Path(__file__).with_name("harmless_classes.json").read_text(encoding="utf-8"))
    found: dict[str, dict[str, str]] = {}
    for library in content.values():
        for kind, by_module in library["classes"].items():
            for module, names in by_module.items():
                found.setdefault(module, {}).update(dict.fromkeys(names.split(), kind))
    return found


def _where_it_is_now(name: str) -> str:
    for before, now in _MOVED.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name


_MOVED = {"timm.models.layers.": "timm.layers."}
"""Packages that were renamed as a whole."""


def _names(patterns: str) -> Iterator[str]:
    """Every name of patterns such as `os.{remove,unlink}`, with blanks between them."""
    for pattern in patterns.split():
        head, _, rest = pattern.partition("{")
        choices, _, tail = rest.partition("}")
        if not rest:
            yield head
        else:
            yield from (
                f"{head}{choice}{end}" for choice in choices.split(",") for end in (_names(tail) if tail else [""])
            )


_REACHED_MODULES = frozenset(
    # Only such names as no library calls a module of its own, unlike `code`, `test`, `signal` or `ssl`.
    _names("""
    asyncio bdb builtin builtins cloudpickle codeop cPickle ctypes dill importlib joblib linecache marshal
    multiprocessing os pathlib pickle pip pkgutil posix posixsubprocess pty pydoc runpy shelve shutil socket
    subprocess sys tempfile threading urllib urllib2 webbrowser xmlrpc zipimport
    """)
)

_CODE_ENDINGS = {
    "from_pretrained": "loads files by name, and may download them",
    "hf_hub_download": "downloads a file",
    "load_from_checkpoint": "unpickles another file",
    "load_state_dict_from_url": "downloads a file and unpickles it",
    "push_to_hub": "uploads files",
    "save_pretrained": "writes files",
    "snapshot_download": "downloads files",
    "tofile": "writes a file",
}

_LIBRARIES = {
    "torch.ao.quantization.qconfig": "a setting of torch's",
    "torch.optim": "an optimizer or schedule of torch's",
    "torch.amp": "a scaler of torch's",
    "torch.cuda": "a scaler of torch's",
    "torch.distributions": "a distribution of torch's",
    "torch.utils.data.dataset": "a data set of torch's",
    "torch.utils.data.sampler": "a sampler of torch's",
    "torch": "a module of torch's",
    "torchvision.transforms": "a transform of torchvision's",
    "torchvision": "a module of torchvision's",
    "timm": "a module of timm's",
    "open_clip": "a module of open_clip's",
    "transformers.modeling_outputs": "a tuple of transformers'",
    "transformers": "a module of transformers'",
}
"""What the classes of a package are, the first that fits."""

_QUANTIZED_STORAGES = ("QInt8Storage", "QInt32Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage")

_TAKEN_BY_TORCH: Mapping[str, str] = {
    "makes an element type": " ".join(f"torch.{dtype}" for dtype in ITEM_SIZES)
    + " torch.{,u}int{1,2,3,4,5,6,7} torch.{qint8,qint32,quint8,quint4x2,quint2x4}",
    "makes the storage of a tensor": " ".join(
        f"torch.{name} torch.cuda.{name}" if name in STORAGE_CLASSES else f"torch.{name}"
        for name in (*STORAGE_CLASSES, *_QUANTIZED_STORAGES)
    )
    + " torch.storage.{TypedStorage,UntypedStorage}",
    "makes a tensor": """
        torch.Tensor torch.nn.parameter.Parameter torch._tensor._rebuild_from_type_v2
        torch.{,cuda.}{Double,Float,Half,BFloat16,Long,Int,Short,Char,Byte,Bool}Tensor
        torch.{,cuda.}sparse.{Double,Float,Half,BFloat16,Long,Int,Short,Char,Byte}Tensor
        torch._utils._rebuild_{tensor,tensor_v2,tensor_v3,parameter,parameter_with_state,qtensor,sparse_tensor}
        torch._utils._rebuild_{nested_tensor,meta_tensor_no_storage,wrapper_subclass}
        torch._utils._rebuild_device_tensor_from_{numpy,cpu_tensor}
    """,
    "says how a tensor is laid out": """
        torch.Size torch.device torch.serialization._get_layout torch.per_{tensor,channel}_{affine,symmetric}
        torch.per_channel_affine_float_qparams
    """,
    "makes a plain container": "collections.{OrderedDict,Counter} builtins.set",
    "makes plain bytes or a number": "_codecs.encode builtins.{bytearray,complex}",
    "makes an exception, without raising it": " ".join(
        f"builtins.{name}"
        for name, kind in vars(builtins).items()
        # Old names, as IOError is one of OSError, are not taken.
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind.__name__ == name
    )
    + " traceback.{StackSummary,FrameSummary}",
    "describes how a tensor is spread over machines": "torch.distributed._mesh_layout.{_FlatLayout,_MeshLayout}",
    "makes a nested tensor": "torch.nested._internal.nested_tensor.{NestedTensor,_rebuild_njt}",
}
"""What `import torch` allows, by its list of names or by registering them."""

_VALUES: Mapping[str, str] = {
    "makes a plain value": """
        builtins.{bool,bytes,float,int,object,range,slice,str,Ellipsis,NotImplemented,None,True,False}
        types.{NoneType,EllipsisType,GenericAlias,UnionType} string.Template
        re._compile signal.{Signals,Handlers,Sigmasks}
    """,
    "makes a plain container": """
        builtins.{dict,frozenset,list,tuple} torch.OrderedDict
        collections.{defaultdict,deque,ChainMap,UserDict,UserList,UserString}
        array.{array,_array_reconstructor} io.{BytesIO,StringIO} _io.{BytesIO,StringIO}
    """,
    "makes a plain namespace": """
        configparser.{BasicInterpolation,ConfigParser,RawConfigParser,SectionProxy} argparse.Namespace
        types.SimpleNamespace optparse.Values easydict.EasyDict attrdict.AttrDict attrdict.dictionary.AttrDict
        munch.Munch addict.Dict addict.addict.Dict yacs.config.CfgNode fvcore.common.config.CfgNode
        detectron2.config.{,config.}CfgNode ml_collections.config_dict.{,config_dict.}ConfigDict
        mmcv.utils.config.ConfigDict mmengine.config.{,config.}ConfigDict
        {pytorch_lightning,lightning.pytorch}.utilities.parsing.AttributeDict
        {lightning_fabric,lightning.fabric}.utilities.data.AttributeDict
    """,
    "makes an exception that torch does not take, without raising it": """
        builtins.{EnvironmentError,IOError} huggingface_hub.errors.{EntryNotFoundError,RepositoryNotFoundError}
    """,
    "binds values to something that is named beside it": "functools.partial",
    "names the elements of a tensor of TorchScript": " ".join(f"torch.{name}" for name in SCRIPTED_STORAGE_CLASSES),
    "makes a plain number": "decimal.Decimal _decimal.Decimal _pydecimal.Decimal fractions.Fraction",
    "makes a date or time": "datetime.{date,datetime,time,timedelta,timezone,tzinfo}",
    "makes an identifier": "uuid.{UUID,SafeUUID}",
    "makes a path, without opening it": """
        pathlib.{Path,PosixPath,WindowsPath,PurePath,PurePosixPath,PureWindowsPath}
        pathlib._local.{Path,PosixPath,WindowsPath,PurePath,PurePosixPath,PureWindowsPath}
    """,
    "makes a type annotation": """
        typing.{Any,Callable,ClassVar,DefaultDict,Deque,Dict,FrozenSet,Generic,Iterable,Iterator,List,Literal,Mapping}
        typing.{Optional,OrderedDict,Sequence,Set,Tuple,Type,TypeVar,Union}
    """,
    "looks a logger up": "logging.getLogger",
    "makes an object of a class that is named beside it": "copyreg.{_reconstructor,__newobj__,__newobj_ex__}",
    "makes a numpy array or number": """
        numpy.{core,_core}.{multiarray,_multiarray_umath}.{scalar,_reconstruct} numpy.{core,_core}.numeric._frombuffer
        numpy.{ndarray,dtype,matrix,recarray,record,matrixlib.defmatrix.matrix} numpy.{,core.,_core.}rec.recarray
        numpy.{core,_core}.records.{recarray,record} numpy.ma.{,core.}MaskedArray numpy.ma.core._mareconstruct
        numpy.{bool,bool_,bool8,byte,ubyte,short,ushort,intc,uintc,int_,uint,long,ulong,longlong,ulonglong,intp,uintp}
        numpy.{int8,int16,int32,int64,uint8,uint16,uint32,uint64,half,single,double,longdouble,float_,csingle,cdouble}
        numpy.{float16,float32,float64,float96,float128,complex64,complex128,complex192,complex256,clongdouble}
        numpy.{str_,bytes_,unicode_,string_,void,object_,datetime64,timedelta64}
        numpy.dtypes.{Bool,Int8,Int16,Int32,Int64,UInt8,UInt16,UInt32,UInt64,Float16,Float32,Float64}DType
        numpy.dtypes.{Complex64,Complex128,LongDouble,CLongDouble,LongLong,ULongLong,IntC,UIntC}DType
        numpy.dtypes.{Str,Bytes,Void,Object,DateTime64,TimeDelta64,String}DType
        ml_dtypes.{bfloat16,float8_e4m3fn,float8_e5m2,int4,uint4}
    """,
    "makes a random number generator of numpy's": """
        numpy.random.{RandomState,Generator,mtrand.RandomState,_generator.Generator}
        numpy.random._pickle.{__randomstate_ctor,__generator_ctor,__bit_generator_ctor} numpy.random._mt19937.MT19937
        numpy.random._pcg64.{PCG64,PCG64DXSM} numpy.random._philox.Philox numpy.random._sfc64.SFC64
        numpy.random.{MT19937,PCG64,PCG64DXSM,Philox,SFC64,SeedSequence}
        numpy.random.bit_generator.{SeedSequence,__pyx_unpickle_SeedSequence}
        numpy.random._bit_generator.__pyx_unpickle_SeedSequence
    """,
    "makes a table of pandas'": """
        pandas.{DataFrame,Series,Index,Timestamp,Timedelta} pandas.core.{frame.DataFrame,series.Series}
        pandas.core.indexes.base.{Index,_new_Index} pandas.core.indexes.range.RangeIndex
        pandas.core.internals.managers.{BlockManager,SingleBlockManager} pandas._libs.internals._unpickle_block
    """,
    "makes a setting of omegaconf's": """
        omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.{DictConfig,ListConfig}
        omegaconf.base.{Box,Container,ContainerMetadata,Metadata,Node,SCMode,UnionNode}
        omegaconf.basecontainer.BaseContainer
        omegaconf.nodes.{AnyNode,BooleanNode,BytesNode,EnumNode,FloatNode,IntegerNode,InterpolationResultNode,PathNode}
        omegaconf.nodes.{StringNode,ValueNode}
    """,
    "makes a setting or callback of Lightning's": """
        {pytorch_lightning,lightning.pytorch}.callbacks.model_checkpoint.ModelCheckpoint
        {pytorch_lightning,lightning.pytorch}.callbacks.early_stopping.{EarlyStopping,EarlyStoppingReason}
        {pytorch_lightning,lightning.pytorch}.callbacks.lr_monitor.LearningRateMonitor
        {pytorch_lightning,lightning.pytorch}.callbacks.{model_summary.ModelSummary,timer.Timer,callback.Callback}
        {pytorch_lightning,lightning.pytorch}.callbacks.progress.tqdm_progress.TQDMProgressBar
        {pytorch_lightning,lightning.pytorch}.callbacks.progress.rich_progress.RichProgressBar
        {pytorch_lightning,lightning.pytorch}.callbacks.gradient_accumulation_scheduler.GradientAccumulationScheduler
        {pytorch_lightning,lightning.pytorch}.callbacks.stochastic_weight_avg.StochasticWeightAveraging
        {pytorch_lightning,lightning.pytorch}.trainer.states.{RunningStage,TrainerFn,TrainerState,TrainerStatus}
        {pytorch_lightning,lightning.pytorch}.utilities.enums.{AMPType,DeviceType,DistributedType,GradClipAlgorithmType}
        {pytorch_lightning,lightning.pytorch}.utilities.enums.{LightningEnum,ModelSummaryMode,PrecisionType}
        {lightning_fabric,lightning.fabric}.utilities.enums.{LightningEnum,AMPType,PrecisionType}
    """,
    "makes a training setting of transformers'": """
        transformers.{TrainingArguments,Seq2SeqTrainingArguments}
        transformers.training_args.{TrainingArguments,OptimizerNames} transformers.training_args.ParallelMode
        transformers.training_args_seq2seq.Seq2SeqTrainingArguments
        transformers.trainer_utils.{EvaluationStrategy,FSDPOption,HubStrategy,IntervalStrategy,SaveStrategy}
        transformers.trainer_utils.{SchedulerType,ShardedDDPOption} transformers.trainer_pt_utils.AcceleratorConfig
        transformers.integrations.deepspeed.{HfDeepSpeedConfig,HfTrainerDeepSpeedConfig}
        transformers.debug_utils.DebugOption transformers.deepspeed.HfTrainerDeepSpeedConfig
        transformers.utils.generic.{ExplicitEnum,ModelOutput}
        transformers.configuration_utils.{PretrainedConfig,PreTrainedConfig}
        transformers.generation.configuration_utils.GenerationConfig
        transformers.tokenization_utils_base.BatchEncoding
        trl.trainer.{sft,dpo,ppo,reward,kto,orpo,grpo}_config.{SFT,DPO,PPO,Reward,KTO,ORPO,GRPO}Config
    """,
    "makes a setting of accelerate's": """
        accelerate.state.{AcceleratorState,DistributedType,GradientState,PartialState}
        accelerate.utils.dataclasses.{AutocastKwargs,DeepSpeedPlugin,DistributedDataParallelKwargs,DistributedType}
        accelerate.utils.dataclasses.{DynamoBackend,FullyShardedDataParallelPlugin,GradientAccumulationPlugin}
        accelerate.utils.dataclasses.{GradScalerKwargs,LoggerType,PrecisionType,RNGType}
    """,
    "makes a setting of peft's": """
        peft.utils.peft_types.{PeftType,TaskType} peft.tuners.lora.config.{LoraConfig,LoftQConfig,LoraRuntimeConfig}
    """,
    "makes a small value of torch's": """
        torch.torch_version.TorchVersion torch.{Generator,_C.Generator}
        torch._C._distributed_c10d.ReduceOp torch.distributed.distributed_c10d.ReduceOp
        torch.utils.hooks.{RemovableHandle,unserializable_hook} torch.serialization.StorageType
        torch.{,cuda.}amp.grad_scaler._refresh_per_optimizer_state
        torch.utils._pytree.{GetAttrKey,LeafSpec,TreeSpec} torch.nn.backends.thnn._get_thnn_function_backend
    """,
    "makes a tensor in a form that weights_only no longer takes": """
        torch.{,cuda.}sparse.BoolTensor torch.tensor.Tensor torch.{,_}tensor._rebuild_from_type
        torch._utils._rebuild_{sparse_csr_tensor,xla_tensor,device_tensor,meta_tensor,mlc_tensor,ort_tensor}
    """,
    "computes with tensors": """
        torch.{relu,sigmoid,tanh,selu}
        torch._C._nn.{gelu,silu,mish,relu6,elu_,hardsigmoid,hardswish,log_sigmoid,leaky_relu}
        torch.nn.functional.{elu,gelu,glu,hardsigmoid,hardswish,hardtanh,leaky_relu,log_softmax,logsigmoid,mish}
        torch.nn.functional.{prelu,relu,relu_,relu6,selu,sigmoid,silu,softmax,softplus,softsign,tanh}
        torch.nn.functional.{cross_entropy,mse_loss,l1_loss,smooth_l1_loss,interpolate,normalize}
    """,
    "describes a distributed checkpoint": """
        torch.distributed.checkpoint.metadata.{BytesStorageMetadata,ChunkStorageMetadata,Metadata,MetadataIndex}
        torch.distributed.checkpoint.metadata.{StorageMeta,TensorProperties,TensorStorageMetadata,_MEM_FORMAT_ENCODING}
        torch.distributed.checkpoint.filesystem.{_StorageInfo,_StoragePrefix}
        torch.distributed.checkpoint._fsspec_filesystem.{_StorageInfo,_StoragePrefix}
        torch.distributed.checkpoint.planner.{BytesIOWriteData,LoadItemType,LoadPlan,ReadItem,SavePlan,TensorWriteData}
        torch.distributed.checkpoint.planner.{WriteItem,WriteItemType}
        torch.distributed.checkpoint.storage.WriteResult
    """,
    "describes how a tensor is spread over machines": """
        torch.distributed.device_mesh.DeviceMesh
        torch.distributed.{_tensor,tensor}.{DTensor,_api.DTensor,api.DTensor}
        torch.distributed.{_tensor,tensor}._dtensor_spec.{DTensorSpec,ShardOrderEntry,TensorMeta}
        torch.distributed.{_tensor,tensor}.placement_types.{Partial,Replicate,Shard,_Partial,_StridedShard}
        torch.distributed.{_tensor,tensor}.placement_types.{DTensorSpec,TensorMeta}
        torch.distributed.remote_device._remote_device
        torch.distributed._shard.metadata.ShardMetadata
        torch.distributed._shard.sharded_tensor.metadata.{MEM_FORMAT_ENCODING,ShardedTensorMetadata,TensorProperties}
        torch.distributed._shard.sharded_tensor.shard.Shard
        torch.distributed._shard.sharding_spec.api.EnumerableShardingSpec
        torch.distributed._shard.sharding_spec.chunk_sharding_spec.ChunkShardingSpec
        torch.distributed.fsdp.api.{BackwardPrefetch,CPUOffload,MixedPrecision,ShardingStrategy,StateDictType}
        torch._dynamo.decorators._DimRange
    """,
    "makes a list of the TorchScript program in the file": """
        torch.jit._pickle.build_{boollist,doublelist,intlist,tensor_from_id,tensorlist}
        torch.jit._pickle.restore_type_tag
    """,
    "is a class of the TorchScript program in the file": "__torch__.*",
}

_RUNNING: Mapping[str, str] = {
    "runs a shell command": """
        os.{system,popen,popen2,popen3,popen4} {posix,nt}.{system,popen} subprocess.{getoutput,getstatusoutput}
        popen2.* platform.{popen,_syscmd_file,_syscmd_ver} _osx_support._read_output uuid._get_command_stdout
        numpy.distutils.exec_command.* torch.utils.collect_env.* pipes.* sh.* plumbum.* invoke.* fabric.*
    """,
    "starts a program": """
        subprocess.* _posixsubprocess.* _winapi.* pty.* pexpect.* ptyprocess.* os.{startfile,posix_spawn,posix_spawnp}
        os.{execl,execle,execlp,execlpe,execv,execve,execvp,execvpe,fork,forkpty}
        os.{spawnl,spawnle,spawnlp,spawnlpe,spawnv,spawnve,spawnvp,spawnvpe}
        {posix,nt}.{execv,execve,fork,forkpty,posix_spawn,posix_spawnp,spawnv,spawnve,startfile}
        asyncio.create_subprocess_{exec,shell} asyncio.subprocess.* webbrowser.* antigravity.* platform.* git.*
        docker.* _aix_support.* _osx_support.* _bootsubprocess.* mailcap.* msilib.* uuid.*
        PIL.{ImageShow,ImageGrab,EpsImagePlugin}.*
    """,
    "starts threads or processes": """
        threading.* _thread.* _dummy_thread.* multiprocessing.* _multiprocessing.* concurrent.* asyncio.* _asyncio.*
        sched.* torch.multiprocessing.* torch._thread_safe_fork.*
    """,
    "deletes or changes files": """
        os.{chmod,chown,link,makedirs,mkdir,open,remove,removedirs,rename,renames,replace,rmdir,symlink,truncate,unlink}
        os.{utime,write}
        posix.{chmod,chown,link,mkdir,open,remove,rename,replace,rmdir,symlink,truncate,unlink,utime,write}
        nt.{chmod,link,mkdir,open,remove,rename,replace,rmdir,symlink,truncate,unlink,utime,write} shutil.*
    """,
    "reaches the operating system: its programs, files and processes": """
        os.* posix.* nt.* _os.* pwd.* grp.* spwd.* nis.* resource.* termios.* tty.* fcntl.*
        syslog.* winreg.* msvcrt.* win32api.* win32com.* win32process.* winsound.* ossaudiodev.* signal.* _signal.*
        _scproxy.*
    """,
    "evaluates Python source": """
        builtins.{eval,exec,execfile} code.* codeop.* timeit.* doctest.* runpy.* idlelib.* lib2to3.* IPython.*
        ipykernel.* rlcompleter.* new.{classobj,code,function,instance,instancemethod,module}
        code.{InteractiveConsole,InteractiveInterpreter} timeit.{timeit,repeat,Timer} gettext.c2py
        typing.{_eval_type,get_type_hints,ForwardRef,ForwardRef._evaluate} numpy.testing.*
        numpy.{test,_pytesttester.PytestTester} numpy.lib.utils.safe_eval sympy.{sympify,lambdify}
        sympy.core.sympify.* sympy.parsing.* sympy.utilities.lambdify.* numexpr.* asteval.* pandas.eval
        pandas.core.computation.* pandas.{DataFrame,core.frame.DataFrame}.{eval,query} PIL.ImageMath.* jinja2.* mako.*
        scipy.weave.* torch.utils.benchmark.* torch.utils.bundled_inputs.*
        torch.utils.bottleneck.* torch.fx.* torch._sources.*
    """,
    "compiles Python source": """
        builtins.compile py_compile.* compileall.* ast.parse symtable.* tabnanny.*
        dataclasses.{make_dataclass,_create_fn}
    """,
    "runs code under a debugger or profiler": """
        builtins.breakpoint pdb.{run,runcall,runeval,set_trace} {cProfile,profile}.{run,runctx} pdb.* bdb.* cProfile.*
        profile.* _lsprof.* trace.* pstats.* cgitb.* faulthandler.* torch.profiler.* torch.autograd.profiler.*
        torch.utils.{_strobelight,throughput_benchmark}.* torch._strobelight.*
    """,
    "runs the tests of a program": """
        unittest.* test.* nose.* pytest.* _pytest.* py.test hypothesis.* torch.testing.* pandas.testing.*
    """,
    "compiles and runs machine code": """
        ctypes.* _ctypes.* cffi.* _cffi_backend.* numba.* llvmlite.* triton.* cupy.* pyximport.* Cython.*
        numpy.ctypeslib.* numpy.f2py.* numpy.distutils.* torch.utils.{cpp_extension,hipify,_cpp_extension_versioner}.*
        torch.cuda.{_compile_kernel,jiterator} torch.cuda.{jiterator,tunable,_utils,memory}.*
        torch._native.*
        tensorflow.{load_library,load_op_library,py_function,numpy_function}
    """,
    "traces, compiles or runs a program": """
        torch.jit.* torch._jit_internal.* torch._inductor.* torch._dynamo.* torch.compile torch._compile.*
        torch.compiler.* torch._export.* torch.export.* torch.onnx.* torch._functorch.* torch._higher_order_ops.*
        torch._precompile.* torch._precompile_driver.* torch.nativert.*
    """,
    "reaches torch's compiled parts, its readers of files among them": "torch._C.*",
    "defines or loads compiled operators": """
        torch.ops.* torch._ops.* torch.classes.* torch._classes.* torch.library.* torch._library.* torch._custom_op.*
        torch._custom_ops.* torch.utils.jit.* torch.utils.backend_registration.*
    """,
    "installs software": """
        pip.* setuptools.* distutils.* _distutils_hack.* pkg_resources.* ensurepip.* venv.* virtualenv.*
        easy_install.* conda.* wheel.* zipapp.*
    """,
}

_REACHING: Mapping[str, str] = {
    "imports any module by its name": """
        builtins.{__import__,reload} importlib.* _frozen_importlib.* _frozen_importlib_external.* imp.* _imp.*
        pkgutil.* zipimport.* site.* ihooks.* imputil.* modulefinder.* pydoc.* logging.config.*
        numpy.{core,_core}._ufunc_reconstruct torch._utils._import_dotted_name torch._utils_internal.*
        torch.utils._import_utils.* hydra.* omegaconf.resolvers.* pyclbr.* werkzeug.utils.import_string
        django.utils.module_loading.* mmengine.registry.* mmcv.utils.registry.* {lightning,pytorch_lightning}.cli.*
        pytorch_lightning.utilities.cli.* lightning.pytorch.cli.* transformers.dynamic_module_utils.*
        transformers.utils.import_utils.* transformers.pipelines.*
    """,
    "reaches the interpreter, and every module that it has loaded": """
        sys.* gc.* inspect.* _sitebuiltins.* builtins.{globals,locals,vars,dir,help} sysconfig.* code.interact
        atexit.* weakref.finalize
    """,
    "reads, sets or deletes any attribute": """
        builtins.{getattr,setattr,delattr,hasattr,super,property,classmethod,staticmethod}
        operator.{attrgetter,itemgetter,delitem,setitem} builtins.str.{format,format_map} string.Formatter.*
        string.Formatter
    """,
    "takes apart, changes or calls what it is given": "operator.* _operator.*",
    "makes functions, classes or modules": """
        builtins.{type,__build_class__}
        types.{FunctionType,LambdaType,CodeType,MethodType,ModuleType,CellType,new_class}
        types.{coroutine,DynamicClassAttribute,prepare_class} collections.namedtuple
    """,
    "calls what it is given": """
        builtins.{map,filter,iter,next,apply,min,max,sorted} operator.{call,methodcaller}
        functools.{partialmethod,reduce} functools.* _functools.* copy.{copy,deepcopy,_reconstruct}
        heapq.{merge,nlargest,nsmallest} abc.ABCMeta.register
        itertools.{starmap,accumulate,takewhile,dropwhile,filterfalse,groupby,tee,zip_longest} contextlib.*
        codecs.{register,register_error,lookup} copyreg.{pickle,constructor,add_extension}
        numpy.{apply_along_axis,apply_over_axes,fromfunction,frompyfunc,fromiter,piecewise,vectorize}
        numpy.lib.{shape_base,_shape_base_impl}.{apply_along_axis,apply_over_axes}
        numpy.lib.{function_base,_function_base_impl}.{piecewise,vectorize}
        pandas.{DataFrame,Series,core.frame.DataFrame,core.series.Series}.{apply,map,pipe,transform,agg,aggregate}
        torch.Tensor.{apply_,map_,map2_,register_hook} torch.{func,_vmap_internals,futures}.* torch.vmap
        torch.utils.checkpoint.* torch.utils._pytree.* torch.utils._cxx_pytree.* torch.overrides.*
        torch.cuda.{_lazy_call,_lazy_init}
    """,
    "ends or stops the process": "builtins.{exit,quit} time.sleep",
    "waits for input": """
        builtins.{input,raw_input} getpass.* readline.* cmd.* curses.* tkinter.* _tkinter.* turtle.* turtledemo.*
    """,
    "changes what weights_only allows": """
        torch.serialization.{add_safe_globals,clear_safe_globals,safe_globals,_add_safe_globals,_safe_globals}
        torch.serialization.{register_package,set_default_load_endianness,_get_user_allowed_globals}
        torch._weights_only_unpickler.*
    """,
}

_READING: Mapping[str, str] = {
    "unpickles without any restriction": """
        pickle.* _pickle.* dill.* cloudpickle.* joblib.* sklearn.externals.joblib.* shelve.* torch.load
        torch.serialization.{load,_load,_legacy_load} torch.storage._load_from_bytes torch.package.*
        torch.utils.{_config_module,_content_store,model_dump,show_pickle}.*
        torch.utils.data.{datapipes,backward_compatibility}.* numpy.{load,loads}
        numpy.lib.{npyio,_npyio_impl,format,_format_impl}.* pandas.{read_pickle,to_pickle} nltk.data.*
        mlflow.{pyfunc,pytorch,sklearn}.* pandas.compat.pickle_compat.*
    """,
    "reads code objects": "marshal.*",
    "builds whatever a text names": "yaml.* ruamel.* jsonpickle.*",
    "loads a model file, with the code that is in it": """
        keras.{models,saving}.* tensorflow.keras.{models,saving}.* tensorflow.saved_model.*
    """,
    "downloads files, or loads them by a name": """
        torch.hub.* torch.utils.model_zoo.* huggingface_hub.* timm.models.{_hub,hub}.{load_state_dict_from_hf,HfApi}
        timm.create_model timm.models._factory.create_model open_clip.factory.{create_model,load_checkpoint}
        open_clip.{tokenizer.HFTokenizer,tokenizer.SigLipTokenizer,hf_model.HFTextEncoder}
        transformers.models.timm_backbone.modeling_timm_backbone.TimmBackbone transformers.utils.hub.*
        transformers.models.auto.{modeling_auto.AutoModel,configuration_auto.AutoConfig,tokenization_auto.AutoTokenizer}
        gdown.* wget.* kagglehub.* nltk.{download,downloader.download} torchvision.datasets.*
    """,
    "opens any file": """
        builtins.{open,file,license,copyright,credits} io.{open,open_code,FileIO,OpenWrapper} codecs.open
        tokenize.open _io.* _pyio.* fileinput.* linecache.* mmap.* gzip.* bz2.* _bz2.* lzma.* _lzma.* zipfile.*
        tarfile.* wave.* aifc.* sunau.* sndhdr.* imghdr.* uu.* netrc.* mailbox.* mimetypes.*
        configparser.{ConfigParser,RawConfigParser}.{read,read_file} logging.{FileHandler,basicConfig}
        logging.handlers.* argparse.FileType filecmp.* dbm.* _dbm.* _gdbm.* sqlite3.* _sqlite3.* plistlib.*
        xml.etree.ElementTree.{parse,iterparse} xml.sax.{parse,make_parser} xml.dom.minidom.parse genericpath.*
        codecs.StreamReaderWriter PIL.Image.open cv2.{imread,imwrite,FileStorage,VideoCapture} h5py.File imageio.*
        skimage.io.* scipy.io.* soundfile.* torchaudio.{load,save} torchvision.io.* tensorflow.io.*
    """,
    "lists, reads or writes files": """
        glob.* pathlib.* torch.utils.{file_baton,_filelock}.* torch.from_file torch.storage.UntypedStorage.from_file
        torch.{UntypedStorage,FloatStorage,DoubleStorage,HalfStorage,LongStorage,IntStorage,ByteStorage}.from_file
        numpy.{fromfile,fromregex,genfromtxt,loadtxt,memmap,recfromcsv,recfromtxt,DataSource,open_memmap}
        numpy.{core,_core}.{memmap,memmap.memmap,multiarray.fromfile,records.fromfile}
        numpy.lib.{_datasource,_iotools}.* numpy.rec.fromfile pandas.io.* pandas.{ExcelFile,ExcelWriter,HDFStore}
        pandas.read_{clipboard,csv,excel,feather,fwf}
        pandas.read_{gbq,hdf,html,iceberg,json,orc,parquet,sas,spss,sql,sql_query,sql_table,stata,table,xml}
    """,
    "writes to the screen or a stream": "builtins.print",
    "writes files": """
        tempfile.* crypt.* torch.save torch.serialization.save torch.utils.{mobile_optimizer,tensorboard,viz}.*
        numpy.{save,savez,savez_compressed,savetxt} numpy.ndarray.{tofile,dump,dumps} tensorboard.* tensorboardX.*
    """,
    "opens connections": """
        socket.* _socket.* ssl.get_server_certificate ssl.* _ssl.* http.* urllib.* urllib3.*
        requests.{get,post,put,request,Session} requests.* aiohttp.* httpx.* httpcore.* pycurl.* ftplib.* smtplib.*
        smtpd.* telnetlib.* poplib.* imaplib.* nntplib.* xmlrpc.* socketserver.* asyncore.* asynchat.* select.*
        selectors.* wsgiref.* cgi.* websocket.* websockets.* paramiko.* boto3.* botocore.* fsspec.* s3fs.* gcsfs.*
        smart_open.* tornado.* twisted.* flask.* zmq.* grpc.* dns.* psycopg2.* pymysql.* redis.* pymongo.*
        sqlalchemy.*
    """,
    "starts processes and opens connections": "torch.distributed.*",
}


def _catalogue() -> Iterator[tuple[str, Judgement]]:
    """Every name and, with `.*` behind it, every package."""
    for effect, groups in (
        (Effect.TENSORS, (_TAKEN_BY_TORCH,)),
        (Effect.DATA, (_VALUES,)),
        (Effect.CODE, (_RUNNING, _REACHING, _READING)),
    ):
        for group in groups:
            for does, patterns in group.items():
                judgement = Judgement(effect, does)
                yield from ((name, judgement) for name in _names(patterns))


_EXACT = {name: judgement for name, judgement in _catalogue() if not name.endswith(".*")}
_WITHIN = {name.removesuffix(".*"): judgement for name, judgement in _catalogue() if name.endswith(".*")}
_DEEPEST = max(name.count(".") + 1 for name in (*_EXACT, *_WITHIN))
_CODE_CLASSES = frozenset(
    last
    for name, judgement in _EXACT.items()
    if judgement.effect is Effect.CODE and (last := name.rpartition(".")[2]).lstrip("_")[:1].isupper()
) | {
    *("GraphModule", "Join", "JoinHook", "Joinable", "Library", "Popen", "RRef", "TemporaryDirectory", "Tracer"),
    "_CodeOnlyModule",
}
"""Classes that other libraries import into their modules."""

ODDLY = "(…)"
"""Behind a name that a pickle uses as no library saves it."""

ENUMERATIONS = frozenset(
    _names("""
    signal.{Signals,Handlers,Sigmasks} uuid.SafeUUID
    {pytorch_lightning,lightning.pytorch}.callbacks.early_stopping.EarlyStoppingReason
    {pytorch_lightning,lightning.pytorch}.trainer.states.{RunningStage,TrainerFn,TrainerStatus}
    {pytorch_lightning,lightning.pytorch}.utilities.enums.{AMPType,DeviceType,DistributedType,GradClipAlgorithmType}
    {pytorch_lightning,lightning.pytorch}.utilities.enums.{LightningEnum,ModelSummaryMode,PrecisionType}
    {lightning_fabric,lightning.fabric}.utilities.enums.{LightningEnum,AMPType,PrecisionType}
    transformers.training_args.{OptimizerNames,ParallelMode} transformers.debug_utils.DebugOption
    transformers.trainer_utils.{EvaluationStrategy,FSDPOption,HubStrategy,IntervalStrategy,SaveStrategy,SchedulerType}
    transformers.trainer_utils.ShardedDDPOption transformers.utils.generic.ExplicitEnum
    accelerate.state.DistributedType accelerate.utils.dataclasses.{DistributedType,DynamoBackend,LoggerType}
    accelerate.utils.dataclasses.{PrecisionType,RNGType} omegaconf.base.SCMode
    peft.utils.peft_types.{PeftType,TaskType} torch.distributed.checkpoint.metadata._MEM_FORMAT_ENCODING
    torch.distributed.checkpoint.planner.{LoadItemType,WriteItemType}
    torch.distributed._shard.sharded_tensor.metadata.MEM_FORMAT_ENCODING
    torch.distributed.fsdp.api.{BackwardPrefetch,ShardingStrategy,StateDictType}
    """)
)
"""Enumerations among the names above."""
