"""Classify with MediaPipe, in MediaPipe's own environment: ``python mediapipe_classify.py MODEL IMAGES.npy``.

Prints JSON: per image ``{label: score}`` as MediaPipe's ImageClassifier gives them, labels from the file's
metadata.
"""

import json
import sys

import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

model, images = sys.argv[1:3]
options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=model), max_results=-1)
answers = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for pixels in np.load(images):
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
        categories = classifier.classify(picture).classifications[0].categories
        answers.append({category.category_name: category.score for category in categories})
json.dump(answers, sys.stdout)
