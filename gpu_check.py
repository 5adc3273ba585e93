import importlib.util, sys, os, tempfile, logging
sys.path.insert(0, os.getcwd())
for name in ("pandas", "filelock", "tqdm", "PIL", "pytorch_lightning", "hypothesis", "pytest", "safetensors"):
    try:
        print(name, __import__(name).__version__)
    except Exception as e:
        print(name, "MISSING", e)
os.environ["LEUKEMIA_CACHE"] = tempfile.mkdtemp()
logging.basicConfig(level=logging.INFO)
import torch
from leukemia.data.demo import write_demo
from leukemia.data.datamodule import CellDataModule
spec = importlib.util.spec_from_file_location("conf", "tests/data/conftest.py"); conf = importlib.util.module_from_spec(spec); spec.loader.exec_module(conf)
import pytorch_lightning as pl
root = write_demo(tempfile.mkdtemp() + "/C-NMC_Leukemia", images=120, seed=0)
off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
for augment in ("none", "d4", "full"):
  for precision in ("32-true", "bf16-mixed"):
    losses = []
    for switch in ("auto", "off"):
        for keep in ("auto", "off"):
            data = CellDataModule(root, image_size=32, batch_size=16, augment=augment, cache_features=switch, keep_on_gpu=keep)
            model = conf.Staged(boundary="head")
            trainer = pl.Trainer(max_epochs=2, accelerator="gpu", devices=1, precision=precision, **off)
            trainer.fit(model, datamodule=data)
            trainer.test(model, datamodule=data); out = trainer.predict(model, datamodule=data)
            b = next(iter(data.batches("val", model=model))); store = data.batches("val", model=model).stored
            losses.append((switch, keep, store.name, type(store.arrays[0]).__name__, round(model.losses[0], 5), round(model.losses[-1], 5)))
    print(augment, precision, losses, flush=True)
