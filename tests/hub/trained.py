"""What stands in the trained folder of these tests."""

from __future__ import annotations

LABELS = {
    "uid": ["op_1", "op_2", "op_3", "topic_1", "topic_2", "topic_3"],
    "text": [
        "Alignment: of sequences",
        "Assembly of genomes",
        "Clustering",
        "Proteins | RNA",
        "<b>Plants</b>",
        "Cells",
    ],
}
RUN = {
    "arguments": {
        "learning_rate": 3e-4,
        "num_train_epochs": 2.0,
        "label_strategy": "in_batch",
        "output_dir": "/home/x",
    },
    "versions": {"torch": "2.13.0", "transformers": "5.23.0"},
    "data": {
        "name": "sample",
        "licence": "bio.tools CC BY 4.0; EDAM CC BY-SA 4.0",
        "source": "bio.tools annotated with EDAM",
        "counts": {"train": 3618, "labels": 6},
        "fingerprint": "0123abcd",
    },
    "encoder": "sentence-transformers/all-MiniLM-L6-v2",
    "paper": ["2310.10636"],
}
METRICS = {
    "split": "test",
    "num_queries": 1000,
    "metrics": {"P@1": 0.571, "P@5": 0.3245, "nDCG@5": 0.5, "R@5": 0.4},
    "baselines": {"popularity": {"P@1": 0.125, "P@5": 0.0875}, "tf-idf": {"P@1": 0.25, "P@5": 0.2}},
    "settings": {"propensity": {"a": 0.55, "b": 1.5}, "filter": None, "k": 5, "seed": 42},
    "train_seconds": 312.4,
    "versions": {"torch": "2.13.0"},
}
JUNK = ("checkpoint-5/model.safetensors", "checkpoint-5/optimizer.pt", "optimizer.pt", "training_args.bin")
MORE_JUNK = ("rng_state.pth", "labels.pkl", "logs/events.out", "model-00001-of-00002.safetensors", "index/old.pkl")
PUSHED = [
    "1_Pooling/config.json",
    "2_Router/document_0_Dense/config.json",
    "2_Router/document_0_Dense/model.safetensors",
    "2_Router/query_0_Dense/config.json",
    "2_Router/query_0_Dense/model.safetensors",
    "2_Router/router_config.json",
    "3_Normalize/config.json",
    "README.md",
    "catalogue_xmc.py",
    "checksums_xmc.py",
    "config.json",
    "config_sentence_transformers.json",
    "configuration_xmc.py",
    "errors_xmc.py",
    "index/index.faiss",
    "index/index.json",
    "label_head_xmc.py",
    "labels.parquet",
    "long_texts_xmc.py",
    "manifest.json",
    "model.safetensors",
    "modeling_xmc.py",
    "modules.json",
    "ngrams_xmc.py",
    "packing_xmc.py",
    "pooling_xmc.py",
    "query_encoder.json",
    "run.json",
    "sentence_bert_config.json",
    "settings_xmc.py",
    "static_tower_xmc.py",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokens_xmc.py",
    "towers_xmc.py",
]
