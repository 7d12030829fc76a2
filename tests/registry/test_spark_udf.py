"""A registered version as a function of Spark: the detections that the detector itself returns."""

import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image
from toy_project import toy_job, write_project

import detexport
from detexport.registry.jobs import register_jobs
from detexport.registry.settings import RegistrySettings
from tiny_artifacts import tiny_image

if shutil.which("java") is None:
    pytest.skip("Spark needs Java, which is not installed", allow_module_level=True)
pyspark_sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")

COLUMNS = (
    "struct<height:long,width:long,boxes:array<array<double>>,scores:array<double>,class_names:array<string>>"
)


@pytest.fixture
def spark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Spark in one process and one worker, with this interpreter and this code."""
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    builder = pyspark_sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    yield session
    session.stop()


def encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_column_of_images_becomes_a_column_of_detections(
    spark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_project(tmp_path)
    register_jobs(
        [toy_job(tmp_path)], workspace=tmp_path, checkout=tmp_path, settings=RegistrySettings.of({})
    )
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    images = [tiny_image(30, 50), tiny_image(60, 80, (200, 90, 140)), tiny_image(20, 20, (10, 10, 10))]
    detect = mlflow.pyfunc.spark_udf(spark, "models:/toy-onnx/1", result_type=COLUMNS, env_manager="local")
    table = spark.createDataFrame(
        [(index, encoded(image)) for index, image in enumerate(images)], "id int, image binary"
    )
    rows = table.select("id", detect("image").alias("found")).orderBy("id").collect()
    detector = detexport.load("models:/toy-onnx/1")
    assert len(rows) == len(images)
    for image, row in zip(images, rows, strict=True):
        expected = detector(np.ascontiguousarray(image.transpose(1, 2, 0)))
        found = row["found"]
        assert (found["height"], found["width"]) == image.shape[1:]
        np.testing.assert_array_equal(np.float32(found["boxes"]).reshape(-1, 4), expected.boxes)
        np.testing.assert_array_equal(np.float32(found["scores"]), expected.scores)
        assert found["class_names"] == expected.class_names
    assert rows[0]["found"]["scores"], "the first image has detections"
