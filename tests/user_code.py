"""Code as a user would write it. It is never run: mypy reads it, and complains about a name or
a type that the package does not have."""

from pathlib import Path

from tinyforge import (
    Adapters,
    RealTrainer,
    TinyforgeError,
    TrainingConfig,
    TrainResult,
    combine,
    count_parameters,
    dataset,
    estimate_memory,
    export_adapter,
    list_adapters,
    load_base,
    merge_adapter,
    what_fits,
)

from tinyforge.generation.model import AdaptedModel


def fine_tune(data: Path, folder: str) -> TrainResult:
    config = TrainingConfig(
        model_name="tinyforge-base",
        output_dir=folder,
        lora_r=16,
        lora_target_modules=["q_proj", "v_proj"],
        eval_fraction=0.1,
        trainer_args={"adam_beta2": 0.9},
    )
    trainer = RealTrainer(config)
    result = trainer.train(data, show=False)
    print(f"{result.final_loss:.3f} after {result.steps} steps, best in {result.best_step}")
    return result


def ask(folder: str, questions: list[str]) -> list[str]:
    trainer = RealTrainer(TrainingConfig(lora_path=folder))
    trainer.load_lora(folder, name="mine")
    for piece in trainer.stream(questions[0], max_new_tokens=16):
        print(piece, end="")
    answers = trainer.generate(questions, batch_size=8, do_sample=True, temperature=0.7)
    trainer.active = None
    share: float = trainer.exact_match(dataset("customer_support", "heldout"))
    print(f"{share:.1%}")
    return list(answers)


def talk(folder: str) -> str:
    model = AdaptedModel("tinyforge-base", folder)
    turns = [{"role": "user", "content": "Hi"}]
    said = model.generate(turns, system="Be brief.", temperature=0, stop=["\n\n"])
    options = {"enable_thinking": False}
    for piece in model.stream(turns, adapter=folder, chat=options, seed=3, stop="."):
        print(piece, end="")
    report = model.evaluate([{"q": "Hi", "a": "Ho"}], columns={"q": "question", "a": "answer"})
    for missed in report.missed:
        print(missed.line, missed.expected, missed.said)
    print(report.loss, report.perplexity, report.exact_match, report.to_dict())
    return str(said)


def swap(folders: list[str]) -> None:
    store = Adapters(load_base(), max_on_device=4)
    for folder in folders:
        name: str = store.load(folder)
        store.use(name)
    with store.disable():
        print(store.active)
    report = store.merge()
    print(report.difference, store.on_device)
    store.unmerge()


def count_and_foresee(model: str) -> float:
    print(count_parameters(model, r=8).trainable)
    print(what_fits(model, seq_len=512).to_dict())
    try:
        return estimate_memory(model, "qlora", r=16, batch_size=2).peak / 2**30
    except TinyforgeError as error:
        print(error.what, error.where, error.do)
        return 0.0


def keep(folder: str) -> None:
    both = combine({f"{folder}/a": 0.7, f"{folder}/b": 0.3})
    print(both.error, list_adapters(folder))
    print(merge_adapter(f"{folder}/a", f"{folder}/merged").saved_bytes)
    print(export_adapter(f"{folder}/a", "gguf", dtype="q8_0").checks[0].equal)


PRESETS: list[TrainingConfig] = [
    TrainingConfig.minimal(),
    TrainingConfig.recommended(num_epochs=1),
    TrainingConfig.max_efficiency(),
]
