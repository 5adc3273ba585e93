"""The terms of the report, as a reader looks them up."""

TERMS = {
    "Trains from": (
        "The first stage of the network that trains; the stages before it keep their pretrained weights. "
        "head: the classifier alone (frozen baseline). layer4: the seed study's partial fine-tuning. last: "
        "the last stage before the head. stem: all stages."
    ),
    "Mean ± sd, n": "Mean and sample standard deviation over the n seeds and folds of one setting.",
    "Accuracy": "Share of cells called correctly; a cell is called positive from probability 0.5 on.",
    "Majority class": "Accuracy of always answering the class that is most frequent among the reported cells.",
    "Not shown to be better than the majority class": (
        "The lower end of the accuracy's 95 % interval is not above that rate. The interval draws subjects "
        "(bootstrap), because cells of one subject are alike. Where subjects are unknown it is Wilson's "
        "interval over cells, which is too narrow."
    ),
    "Balanced accuracy": "Mean of sensitivity and specificity; 50 % for a constant answer.",
    "Weighted F1": "F1 score of each class, weighted by its cells: the metric of the C-NMC challenge.",
    "AUROC": "Chance that a positive cell scores above a negative one; 0.5 is guessing.",
    "Sensitivity, specificity": (
        "Share of positive cells called positive; share of negative cells called negative."
    ),
    "ECE": "Expected calibration error: mean distance of the decisions' confidence from their accuracy.",
    "Loss": "Mean binary cross-entropy over the reported cells.",
    "Best epoch": "The epoch, counted from 1, whose checkpoint is reported: the best on the validation split.",
    "Train–validation gap": (
        "Accuracy on the training cells minus that on the validation split at the best epoch, both in "
        "evaluation mode and without augmentation."
    ),
    "Epoch chosen on these cells": "The reported cells also chose the epoch: their metrics are not held out.",
    "Leak": "A reported cell shares its subject or its picture with training cells, so the metrics are too good.",
}
