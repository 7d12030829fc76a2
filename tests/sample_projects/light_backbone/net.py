import torch.nn.functional as F
from torch import nn

from detectron2.layers import CNNBlockBase, Conv2d, DepthwiseSeparableConv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool


class LightBlock(CNNBlockBase):
    def __init__(self, in_channels, out_channels, stride, norm):
        super().__init__(in_channels, out_channels, stride)
        self.reduce = Conv2d(
            in_channels,
            out_channels,
            kernel_size=3,
            stride=stride,
            padding=1,
            bias=False,
            norm=get_norm(norm, out_channels),
            activation=F.relu,
        )
        self.mix = DepthwiseSeparableConv2d(out_channels, out_channels, norm1=norm, norm2=norm)

    def forward(self, x):
        x = self.reduce(x)
        return F.relu(x + self.mix(x))


class LightNet(Backbone):
    def __init__(self, in_channels, widths, norm):
        super().__init__()
        self.stem = Conv2d(in_channels, widths[0], kernel_size=3, stride=2, padding=1)
        self._out_features, self._out_feature_channels, self._out_feature_strides = [], {}, {}
        self.stages = nn.ModuleList()
        channels, stride = widths[0], 2
        for level, width in enumerate(widths, start=2):
            block = LightBlock(channels, width, 2, norm)
            self.stages.append(block)
            channels, stride = block.out_channels, stride * block.stride
            self._out_features.append(f"s{level}")
            self._out_feature_channels[f"s{level}"] = channels
            self._out_feature_strides[f"s{level}"] = stride

    def forward(self, x):
        outputs = {}
        x = F.relu(self.stem(x))
        for name, stage in zip(self._out_features, self.stages):
            x = stage(x)
            outputs[name] = x
        return outputs

    def output_shape(self):
        return {
            name: ShapeSpec(
                channels=self._out_feature_channels[name], stride=self._out_feature_strides[name]
            )
            for name in self._out_features
        }


@BACKBONE_REGISTRY.register()
def build_light_fpn_backbone(cfg, input_shape):
    bottom_up = LightNet(input_shape.channels, cfg.MODEL.LIGHT.WIDTHS, cfg.MODEL.LIGHT.NORM)
    return FPN(
        bottom_up=bottom_up,
        in_features=["s2", "s3", "s4", "s5"],
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
