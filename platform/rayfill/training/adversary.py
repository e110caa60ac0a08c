"""A discriminator in training: what it says of a network's answers, and its own steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rayfill.config.run import TrainConfig
from rayfill.losses.adversarial import (
    feature_matching_loss,
    gram_style_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
)
from rayfill.models.edgeconnect.discriminators import PatchDiscriminator
from rayfill.training.ranks import everywhere
from rayfill.training.stages import Judge, Judged, Term, Wrap

#: Momentum terms of Adam for both sides of adversarial training (Nazeri et al. 2019).
ADVERSARIAL_BETAS = (0.0, 0.9)


class Adversary:
    """A 70x70 PatchGAN with its optimiser; trained with the hinge loss after every step."""

    def __init__(
        self, judge: Judge, *, train: TrainConfig, device: torch.device, wrap: Wrap | None
    ) -> None:
        """Build discriminator and optimiser.

        Args:
            judge: its input, and the weights of what it measures.
            train: of the run.
            device: where to train.
            wrap: makes it data-parallel; None trains in this process alone.
        """
        network = PatchDiscriminator(judge.channels, width=train.discriminator_width)
        self._network = network.to(device)
        self._trained = wrap(self._network) if wrap else self._network
        self._weights = judge.weights
        self._rate = train.learning_rate * train.discriminator_rate
        self._optimizer = torch.optim.Adam(
            self._network.parameters(),
            lr=self._rate,
            betas=ADVERSARIAL_BETAS,
            fused=True,
        )

    def terms(self, judged: Judged) -> dict[str, Term]:
        """Return what it says of the fakes, for the network that made them to minimise."""
        self._network.requires_grad_(False)  # none of this trains the discriminator
        try:
            logits, fake = self._network(judged.fake.float())
            with torch.no_grad():
                _, real = self._network(judged.real.float())
        finally:
            self._network.requires_grad_(True)
        measured = {
            "gan": lambda: hinge_generator_loss(logits),
            "feature_matching": lambda: feature_matching_loss(real, fake),
            "gan_style": lambda: gram_style_loss(real[:-1], fake[:-1]),
        }
        return {
            name: Term(value=measured[name](), weight=weight)
            for name, weight in self._weights.items()
        }

    def step(self, judged: Judged) -> tuple[Tensor, bool]:
        """Learn to tell the fakes from the truth; return its loss and whether all were finite."""
        self._trained.train()
        both = torch.cat([judged.real.float(), judged.fake.detach().float()])
        real, fake = self._trained(both)[0].chunk(2)
        loss = hinge_discriminator_loss(real, fake)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in self._network.parameters() if p.grad is not None]
        )
        finite = everywhere(torch.isfinite(norm) & torch.isfinite(loss.detach()))
        if finite:
            self._optimizer.step()
        return loss.detach(), finite

    def weights(self) -> dict[str, Tensor]:
        """Return its tensors."""
        return dict(self._network.state_dict())

    def state(self) -> dict[str, Any]:
        """Return its optimiser's state."""
        return self._optimizer.state_dict()

    def restore(self, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what :meth:`weights` and :meth:`state` returned."""
        self._network.load_state_dict(weights)
        self._optimizer.load_state_dict(dict(state))
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate  # of a run that goes on with another, not the other's

    @property
    def network(self) -> nn.Module:
        """The discriminator itself."""
        return self._network
